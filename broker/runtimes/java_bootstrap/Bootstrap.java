package broker;

import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * What runs inside a Java environment: load the handler, then answer one invocation after another.
 *
 * <p>It speaks the frames of broker/runtime/inside/frames.py over descriptor 3 and writes markers into 4, the output pipe.
 */
public final class Bootstrap {
    private static final int CONTROL = 3;
    private static final int OUTPUT = 4;
    private static final int LONGEST_MESSAGE = 64 << 10;
    private static final int NOTICEABLE_US = 1000;

    private final Map<String, Object> told;
    private final OutputStream control = new FileOutputStream(descriptor(CONTROL));
    private final OutputStream output = new FileOutputStream(descriptor(OUTPUT));
    private final String token;
    private long peak;
    private long unmeasured;
    private long processorTold;

    @SuppressWarnings("unchecked")
    private Bootstrap(String told) {
        this.told = (Map<String, Object>) Json.read(told);
        token = (String) this.told.get("token");
    }

    public static void main(String[] arguments) throws IOException {
        System.setOut(stream(FileDescriptor.out));
        System.setErr(stream(FileDescriptor.err));
        new Bootstrap(arguments[0]).run();
        System.exit(0);
    }

    private static PrintStream stream(FileDescriptor descriptor) {
        return new PrintStream(new BufferedOutputStream(new FileOutputStream(descriptor), 8192), true, StandardCharsets.UTF_8);
    }

    private static FileDescriptor descriptor(int number) {
        try {
            FileDescriptor made = new FileDescriptor();
            Field field = FileDescriptor.class.getDeclaredField("fd");
            field.setAccessible(true);
            field.setInt(made, number);
            return made;
        } catch (ReflectiveOperationException e) {
            throw new LinkageError("needs --add-opens java.base/java.io=ALL-UNNAMED", e);
        }
    }

    private void run() throws IOException {
        long looked = System.currentTimeMillis() * 1_000_000;
        Handler handler = null;
        try {
            handler = new Handler((String) told.get("handler"), Path.of((String) told.get("root")));
        } catch (Handler.Refused refused) {
            refuse(refused);
        }
        flush();
        mark("init");
        long spent = System.nanoTime() / 1000 - (long) (((Number) told.get("born")).doubleValue() * 1e6);
        send("{\"ready\":true,\"us\":" + spent + "}", stamps(handler.files, looked).getBytes(StandardCharsets.UTF_8));
        serve(handler);
    }

    private void serve(Handler handler) throws IOException {
        DataInputStream in = new DataInputStream(new FileInputStream(descriptor(CONTROL)));
        while (true) {
            byte[] frame;
            try {
                frame = new byte[in.readInt()];
            } catch (EOFException e) {
                return;
            }
            in.readFully(frame);
            int cut = 0;
            while (frame[cut] != '\n') cut++;
            String header = new String(frame, 0, cut, StandardCharsets.UTF_8);
            String event = new String(frame, cut + 1, frame.length - cut - 1, StandardCharsets.UTF_8);
            invoke(handler, header, event);
        }
    }

    @SuppressWarnings("unchecked")
    private void invoke(Handler handler, String header, String event) throws IOException {
        long start = System.nanoTime();
        Map<String, Object> request = (Map<String, Object>) Json.read(header);
        String id = (String) request.get("id");
        boolean ok = false;
        boolean exhausted = false;
        byte[] body;
        try {
            long longest = ((Number) told.get("max_result")).longValue();
            body = handler.call(event, context(request, start));
            ok = body.length <= longest;
            if (!ok) {
                String message = "the result has " + body.length + " bytes; the limit is " + longest;
                body = error("Function.ResponseSizeTooLarge", message, List.of());
            }
        } catch (Json.Wrong wrong) {
            body = error("Runtime.MarshalError", "the result is not JSON: " + wrong.getMessage(), List.of());
        } catch (Throwable error) { // the border to the user's code: what it throws is its failure
            exhausted = error instanceof OutOfMemoryError;
            body = report(error);
        }
        flush();
        mark(id);
        long spent = (System.nanoTime() - start) / 1000;
        if (spent > NOTICEABLE_US || peak == 0) peak = peakOfMemory();
        unmeasured += spent;
        long processor = unmeasured > NOTICEABLE_US ? processorTime() : 0;
        String answer = "{\"id\":\"" + id + "\",\"ok\":" + ok + ",\"us\":" + spent + ",\"rss\":" + peak + ",\"cpu\":" + processor;
        send(answer + ",\"end\":" + exhausted + "}", body);
        if (exhausted) Runtime.getRuntime().halt(0); // nothing here can be relied upon any more
    }

    private Map<String, Object> context(Map<String, Object> request, long start) {
        String id = (String) request.get("id");
        Map<String, Object> fields = new LinkedHashMap<>();
        fields.put("awsRequestId", id);
        fields.put("attempt", ((Number) request.get("attempt")).intValue());
        fields.put("deadline", start + ((Number) request.get("timeout_ms")).longValue() * 1_000_000);
        fields.put("functionName", System.getenv("AWS_LAMBDA_FUNCTION_NAME"));
        fields.put("functionVersion", System.getenv("AWS_LAMBDA_FUNCTION_VERSION"));
        fields.put("invokedFunctionArn", told.get("arn"));
        fields.put("memoryLimitInMB", Integer.parseInt(System.getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")));
        fields.put("logGroupName", System.getenv("AWS_LAMBDA_LOG_GROUP_NAME"));
        fields.put("logStreamName", System.getenv("AWS_LAMBDA_LOG_STREAM_NAME"));
        fields.put("clientContext", request.get("client"));
        String trace = "Root=1-" + id.substring(0, 8) + "-" + id.substring(8) + ";Parent=" + id.substring(id.length() - 16);
        System.setProperty("com.amazonaws.xray.traceHeader", trace + ";Sampled=0"); // a variable cannot be set
        return fields;
    }

    private byte[] report(Throwable error) throws IOException {
        String kind = error instanceof OutOfMemoryError ? "OutOfMemory" : error.getClass().getSimpleName();
        String message = error.getMessage() == null ? "" : error.getMessage();
        if (message.length() > LONGEST_MESSAGE) message = message.substring(0, LONGEST_MESSAGE);
        List<String> stack = stack(error);
        StringBuilder text = new StringBuilder("[ERROR] " + kind + ": " + message + "\n");
        for (String line : stack) text.append(line).append('\n');
        Throwable cause = error.getCause();
        for (int depth = 0; cause != null && depth < 8; depth++, cause = cause.getCause()) {
            text.append("Caused by: ").append(cause).append('\n');
            for (String line : stack(cause)) text.append(line).append('\n');
        }
        flush();
        print(text.toString());
        return error(kind, message, stack);
    }

    /** The frames down to ours, below which the call came from. */
    private static List<String> stack(Throwable error) {
        List<String> lines = new ArrayList<>();
        for (StackTraceElement frame : error.getStackTrace()) {
            if (frame.getClassName().startsWith("broker.")) break;
            if (frame.getClassName().startsWith("jdk.internal.reflect.") || frame.getClassName().startsWith("java.lang.reflect.")) continue;
            lines.add("    at " + frame);
        }
        return lines;
    }

    private void refuse(Handler.Refused refused) throws IOException {
        byte[] body = new byte[0];
        if (refused.getCause() == null) {
            flush();
            print("[ERROR] " + refused.kind + ": " + refused.getMessage() + "\n");
        } else body = report(refused.getCause());
        mark("init");
        Map<String, Object> header = Map.of("init_error", refused.kind, "message", refused.getMessage());
        send(Json.write(header), body);
        Runtime.getRuntime().halt(1);
    }

    private static byte[] error(String kind, String message, List<String> stack) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("errorMessage", message);
        body.put("errorType", kind);
        body.put("stackTrace", stack);
        return Json.write(body).getBytes(StandardCharsets.UTF_8);
    }

    private static String stamps(List<Path> files, long looked) {
        List<Object> found = new ArrayList<>();
        for (Path file : files) {
            try {
                long changed = Files.getLastModifiedTime(file).to(TimeUnit.NANOSECONDS);
                // Written while it was read: nobody knows which of both was read, so it counts as changed.
                found.add(List.of(file.toString(), changed >= looked ? 0 : changed, Files.size(file)));
            } catch (IOException e) {
                found.add(List.of(file.toString(), 0, 0));
            }
        }
        return Json.write(found);
    }

    private static long peakOfMemory() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status")))
                if (line.startsWith("VmHWM:")) return Long.parseLong(line.replaceAll("\\D", "")) << 10;
        } catch (IOException e) {
            // nobody tells, such as on macOS
        }
        return 0;
    }

    /** Microseconds that have not been told yet, in the kernel's ticks of 10 ms (proc(5)). */
    private long processorTime() {
        unmeasured = 0;
        try {
            String stat = Files.readString(Path.of("/proc/self/stat"));
            String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
            long before = processorTold;
            processorTold = (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) * 10_000;
            return processorTold - before;
        } catch (IOException e) {
            return 0;
        }
    }

    private static void flush() {
        System.out.flush();
        System.err.flush();
    }

    private void print(String text) throws IOException {
        mark("");
        output.write(text.getBytes(StandardCharsets.UTF_8));
    }

    private void mark(String name) throws IOException {
        output.write(("\0" + token + " " + name + "\n").getBytes(StandardCharsets.UTF_8));
    }

    private void send(String header, byte[] body) throws IOException {
        byte[] head = (header + "\n").getBytes(StandardCharsets.UTF_8);
        int length = head.length + body.length;
        byte[] frame = new byte[4 + length];
        for (int i = 0; i < 4; i++) frame[i] = (byte) (length >>> (24 - 8 * i));
        System.arraycopy(head, 0, frame, 4, head.length);
        System.arraycopy(body, 0, frame, 4 + head.length, body.length);
        control.write(frame);
    }
}
