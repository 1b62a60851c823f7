// The forms that a handler may have in Java, see tests/integration/test_runtime_java.py.

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

public class Forms {
    public interface Logger {
        void log(String line);
    }

    public interface Client {
        Map<String, String> getCustom();
    }

    public interface Context {
        String getAwsRequestId();

        int getAttempt();

        int getMemoryLimitInMB();

        long getRemainingTimeInMillis();

        String getInvokedFunctionArn();

        Client getClientContext();

        Object getIdentity();

        Logger getLogger();
    }

    public record Size(int width, long height) {}

    public record Image(String name, Size size, List<Size> others) {}

    public static class Bean {
        private String name;

        public void setName(String name) {
            this.name = name;
        }

        public String getName() {
            return name;
        }
    }

    public interface RequestHandler<I, O> {
        O handleRequest(I event, Context context);
    }

    public static class Request implements RequestHandler<Map<String, Long>, Long> {
        @Override
        public Long handleRequest(Map<String, Long> event, Context context) {
            return event.get("n") + 1;
        }
    }

    static class Unready {
        Unready() {
            throw new IllegalStateException("no database");
        }

        public Object handle(Object event) {
            return event;
        }
    }

    public static int fixed(int event) {
        return event + 1;
    }

    public String text(String event) {
        return event;
    }

    public Image image(Image event) {
        return new Image(event.name(), event.size(), List.of(event.size()));
    }

    public Bean bean(Bean event) {
        return event;
    }

    public void stream(InputStream in, OutputStream out, Context context) throws IOException {
        out.write(in.readAllBytes());
    }

    public boolean temporary(Object event) throws IOException {
        return Files.createTempFile("a", "b").getParent().equals(Path.of(System.getenv("TMPDIR")));
    }

    public CompletableFuture<String> later(Object event) {
        return CompletableFuture.supplyAsync(() -> {
            if (event == null) throw new IllegalArgumentException("nothing");
            return "later";
        });
    }

    public List<Object> context(Object event, Context context) {
        context.getLogger().log("logged");
        String custom = context.getClientContext() == null ? null : context.getClientContext().getCustom().get("a");
        return List.of(context.getAwsRequestId(), context.getAttempt(), context.getMemoryLimitInMB(),
                context.getInvokedFunctionArn(), "" + custom, "" + context.getIdentity(), context.getRemainingTimeInMillis());
    }

    public Object three(Object a, Object b, Object c) {
        return a;
    }
}
