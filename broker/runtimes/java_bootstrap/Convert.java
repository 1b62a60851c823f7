package broker;

import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.RecordComponent;
import java.lang.reflect.Type;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** The event as the type that a handler takes: maps and lists as they are, records and beans by the names of fields. */
final class Convert {
    private Convert() {}

    static Object to(String event, Type type) throws ReflectiveOperationException {
        Object value = Json.read(event);
        if (type == String.class && value != null && !(value instanceof String)) return event;
        return to(value, type);
    }

    private static Object to(Object value, Type type) throws ReflectiveOperationException {
        Type[] inner = type instanceof ParameterizedType ? ((ParameterizedType) type).getActualTypeArguments() : new Type[0];
        Type outer = type instanceof ParameterizedType ? ((ParameterizedType) type).getRawType() : type;
        Class<?> wanted = outer instanceof Class ? (Class<?>) outer : Object.class;
        if (value instanceof Number) return number((Number) value, wanted);
        if (value instanceof List && inner.length == 1 && Collection.class.isAssignableFrom(wanted)) {
            List<Object> made = new ArrayList<>();
            for (Object item : (List<?>) value) made.add(to(item, inner[0]));
            return made;
        }
        if (value instanceof Map && inner.length == 2 && Map.class.isAssignableFrom(wanted)) {
            Map<Object, Object> made = new LinkedHashMap<>();
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) made.put(entry.getKey(), to(entry.getValue(), inner[1]));
            return made;
        }
        boolean fits = value == null ? !wanted.isPrimitive() : wanted.isInstance(value);
        if (fits || (wanted == boolean.class && value instanceof Boolean)) return value;
        if (value instanceof Map && wanted.isRecord()) return record((Map<?, ?>) value, wanted);
        if (value instanceof Map && !wanted.isInterface()) return bean((Map<?, ?>) value, wanted);
        throw new IllegalArgumentException("the event is no " + wanted.getSimpleName());
    }

    private static Object number(Number number, Class<?> wanted) {
        if (wanted == int.class || wanted == Integer.class) return number.intValue();
        if (wanted == long.class || wanted == Long.class) return number.longValue();
        if (wanted == double.class || wanted == Double.class) return number.doubleValue();
        if (wanted == float.class || wanted == Float.class) return number.floatValue();
        if (wanted == String.class) return number.toString();
        if (!wanted.isInstance(number)) throw new IllegalArgumentException("the event is no " + wanted.getSimpleName());
        return number;
    }

    private static Object record(Map<?, ?> value, Class<?> wanted) throws ReflectiveOperationException {
        RecordComponent[] components = wanted.getRecordComponents();
        Class<?>[] types = new Class<?>[components.length];
        Object[] given = new Object[components.length];
        for (int i = 0; i < components.length; i++) {
            types[i] = components[i].getType();
            Object part = value.get(components[i].getName());
            given[i] = part == null && types[i].isPrimitive() ? to(0L, types[i]) : to(part, components[i].getGenericType());
        }
        Constructor<?> constructor = wanted.getDeclaredConstructor(types);
        constructor.setAccessible(true);
        return made(constructor, given);
    }

    private static Object bean(Map<?, ?> value, Class<?> wanted) throws ReflectiveOperationException {
        Constructor<?> constructor = wanted.getDeclaredConstructor();
        constructor.setAccessible(true);
        Object made = made(constructor);
        for (Method method : wanted.getMethods()) {
            String name = method.getName();
            if (!name.startsWith("set") || name.length() < 4 || method.getParameterCount() != 1) continue;
            String key = name.substring(3, 4).toLowerCase(Locale.ROOT) + name.substring(4);
            if (!value.containsKey(key)) continue;
            method.setAccessible(true);
            method.invoke(made, to(value.get(key), method.getGenericParameterTypes()[0]));
        }
        return made;
    }

    /** What a constructor throws is the user's, and not to be taken for what the handler throws. */
    private static Object made(Constructor<?> constructor, Object... given) throws ReflectiveOperationException {
        try {
            return constructor.newInstance(given);
        } catch (InvocationTargetException e) {
            throw new IllegalArgumentException("the event is no " + constructor.getDeclaringClass().getSimpleName() + ": " + e.getCause());
        }
    }
}
