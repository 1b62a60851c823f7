package broker;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.Map;

/**
 * The context as whatever interface the handler takes: AWS Lambda's own `com.amazonaws.services.lambda.runtime.Context`
 * if the function brings it, or one of the function's own with some of its methods. A Map it is as it stands.
 */
final class Context {
    private Context() {}

    static Object as(Class<?> type, Map<String, Object> fields) {
        if (type.isInstance(fields)) return fields;
        return proxy(type, fields);
    }

    private static Object proxy(Class<?> type, Map<String, Object> fields) {
        InvocationHandler answer = (self, method, given) -> {
            if (method.getDeclaringClass() == Object.class) {
                switch (method.getName()) {
                    case "equals":
                        return self == given[0];
                    case "hashCode":
                        return System.identityHashCode(self);
                    default:
                        return fields.toString();
                }
            }
            return answer(self, method, given, fields);
        };
        return Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, answer);
    }

    private static Object answer(Object self, Method method, Object[] given, Map<String, Object> fields) throws Throwable {
        if (method.getName().equals("log") && given != null) {
            Object said = given[0] instanceof byte[] ? new String((byte[]) given[0], StandardCharsets.UTF_8) : given[0];
            System.out.println(said);
            return null;
        }
        String name = method.getName().startsWith("get") ? method.getName().substring(3) : method.getName();
        String key = name.isEmpty() ? name : name.substring(0, 1).toLowerCase(Locale.ROOT) + name.substring(1);
        Class<?> wanted = method.getReturnType();
        if (key.equals("logger") && wanted.isInterface()) return proxy(wanted, fields);
        if (key.equals("remainingTimeInMillis")) {
            long left = Math.max(0, ((Long) fields.get("deadline") - System.nanoTime()) / 1_000_000);
            if (wanted == int.class || wanted == Integer.class) return (int) left;
            return left;
        }
        if (!fields.containsKey(key)) {
            if (method.isDefault()) return InvocationHandler.invokeDefault(self, method, given);
            if (!wanted.isPrimitive()) return null;
            throw new UnsupportedOperationException("the context has no " + method.getName());
        }
        Object value = fields.get(key);
        if (value instanceof Map && !wanted.isInstance(value) && wanted.isInterface()) return proxy(wanted, part(value));
        if (value instanceof Number && wanted == long.class) return ((Number) value).longValue();
        return value;
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> part(Object value) {
        return (Map<String, Object>) value;
    }
}
