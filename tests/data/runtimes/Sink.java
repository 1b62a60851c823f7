// Does what its event says: the same in each runtime, see tests/integration/test_runtimes.py.

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

public class Sink {
    public interface Context {
        String getAwsRequestId();

        String getFunctionName();

        int getRemainingTimeInMillis();
    }

    static class Trouble extends Exception {
        Trouble(String message) {
            super(message);
        }
    }

    private int count;

    public Object handler(Map<String, Object> event, Context context) throws Exception {
        count++;
        Object given = event.get("with");
        switch ((String) event.get("do")) {
            case "echo":
                return given;
            case "warm":
                return count;
            case "fail":
                throw new Trouble("no luck");
            case "shout":
                for (int number = 0; number < 3; number++) System.out.println("out " + number + " " + given);
                new ProcessBuilder("echo", "child").inheritIO().start().waitFor();
                System.err.println("err " + given);
                return null;
            case "big":
                return "x".repeat(((Long) given).intValue());
            case "tell":
                return tell((List<?>) given, context);
            case "hang":
                new ProcessBuilder("sleep", "60").start();
                new ProcessBuilder("setsid", "sleep", "60").start();
                System.out.println("hanging");
                Thread.sleep(60_000);
                return null;
            case "leave":
                System.exit(((Long) given).intValue());
                return null;
            case "crash":
                new ProcessBuilder("kill", "-KILL", "" + ProcessHandle.current().pid()).start();
                Thread.sleep(5000);
                return null;
            case "fill":
                List<byte[]> hoard = new ArrayList<>();
                while (true) {
                    byte[] more = new byte[8 << 20];
                    Arrays.fill(more, (byte) hoard.size());
                    hoard.add(more);
                    Thread.sleep(10);
                }
            case "nan":
                return List.of(Double.NaN);
            default:
                throw new IllegalArgumentException();
        }
    }

    private Map<String, Object> tell(List<?> names, Context context) {
        Map<String, Object> variables = new LinkedHashMap<>();
        for (Object name : names) variables.put((String) name, System.getenv((String) name));
        List<?> fields = List.of(context.getAwsRequestId(), context.getFunctionName(), context.getRemainingTimeInMillis());
        return Map.of("variables", variables, "cwd", System.getProperty("user.dir"), "fields", fields);
    }
}
