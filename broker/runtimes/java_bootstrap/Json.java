package broker;

import java.lang.reflect.Array;
import java.lang.reflect.Method;
import java.lang.reflect.RecordComponent;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;

/** JSON to maps, lists, strings, numbers, and back; Java brings no reader of its own. RFC 8259. */
final class Json {
    @SuppressWarnings("serial")
    static final class Wrong extends RuntimeException {
        Wrong(String message) {
            super(message);
        }
    }

    private static final int DEEPEST = 1000;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    static Object read(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        json.space();
        if (json.at < text.length()) throw json.wrong("more than one value");
        return value;
    }

    private Object value(int depth) {
        if (depth > DEEPEST) throw wrong("nested too deeply");
        space();
        if (at >= text.length()) throw wrong("an end");
        switch (text.charAt(at)) {
            case '{': {
                Map<String, Object> map = new LinkedHashMap<>();
                at++;
                if (after('}')) return map;
                do {
                    space();
                    String key = string();
                    if (!after(':')) throw wrong("no colon");
                    map.put(key, value(depth + 1));
                } while (after(','));
                if (!after('}')) throw wrong("no closing brace");
                return map;
            }
            case '[': {
                List<Object> list = new ArrayList<>();
                at++;
                if (after(']')) return list;
                do list.add(value(depth + 1));
                while (after(','));
                if (!after(']')) throw wrong("no closing bracket");
                return list;
            }
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private boolean after(char wanted) {
        space();
        if (at >= text.length() || text.charAt(at) != wanted) return false;
        at++;
        return true;
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) throw wrong("an unknown word");
        at += word.length();
        return value;
    }

    private Object number() {
        int start = at;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) at++;
        String number = text.substring(start, at);
        try {
            if (number.matches("-?\\d{1,18}")) return Long.valueOf(number);
            if (number.matches("-?\\d+")) return new java.math.BigInteger(number);
            return Double.valueOf(number);
        } catch (NumberFormatException e) {
            throw wrong("no value");
        }
    }

    private String string() {
        if (at >= text.length() || text.charAt(at) != '"') throw wrong("no string");
        int start = ++at;
        int end = at;
        while (end < text.length() && text.charAt(end) != '"' && text.charAt(end) != '\\') end++;
        if (end < text.length() && text.charAt(end) == '"') {
            at = end + 1;
            return text.substring(start, end);
        }
        StringBuilder made = new StringBuilder();
        while (at < text.length()) {
            char c = text.charAt(at++);
            if (c == '"') return made.toString();
            if (c != '\\') {
                made.append(c);
                continue;
            }
            if (at >= text.length()) break;
            char escape = text.charAt(at++);
            int known = "\"\\/bfnrt".indexOf(escape);
            if (known >= 0) made.append("\"\\/\b\f\n\r\t".charAt(known));
            else if (escape == 'u' && at + 4 <= text.length()) {
                made.append((char) Integer.parseInt(text.substring(at, at + 4), 16));
                at += 4;
            } else throw wrong("an unknown escape");
        }
        throw wrong("no end of a string");
    }

    private Wrong wrong(String what) {
        return new Wrong(what + " at character " + at);
    }

    static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out, 0);
        return out.toString();
    }

    private static void write(Object value, StringBuilder out, int depth) {
        if (depth > DEEPEST) throw new Wrong("nested too deeply");
        if (value instanceof Optional) value = ((Optional<?>) value).orElse(null);
        if (value == null || value instanceof Boolean) out.append(value);
        else if (value instanceof Double || value instanceof Float) {
            double number = ((Number) value).doubleValue();
            if (Double.isNaN(number) || Double.isInfinite(number)) throw new Wrong("there is no " + number + " in JSON");
            out.append(value);
        } else if (value instanceof Number) out.append(value);
        else if (value instanceof CharSequence || value instanceof Character || value instanceof Enum) quote(value.toString(), out);
        else if (value instanceof Map) writeMap((Map<?, ?>) value, out, depth);
        else if (value instanceof Iterable) {
            char before = '[';
            for (Object item : (Iterable<?>) value) {
                out.append(before);
                before = ',';
                write(item, out, depth + 1);
            }
            out.append(before == '[' ? "[]" : "]");
        } else if (value.getClass().isArray()) {
            out.append('[');
            for (int i = 0; i < Array.getLength(value); i++) {
                if (i > 0) out.append(',');
                write(Array.get(value, i), out, depth + 1);
            }
            out.append(']');
        } else writeMap(fields(value), out, depth);
    }

    private static void writeMap(Map<?, ?> map, StringBuilder out, int depth) {
        char before = '{';
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            out.append(before);
            before = ',';
            quote(String.valueOf(entry.getKey()), out);
            out.append(':');
            write(entry.getValue(), out, depth + 1);
        }
        out.append(before == '{' ? "{}" : "}");
    }

    /** What a record consists of, or what an object's getters return. */
    private static Map<String, Object> fields(Object value) {
        Map<String, Object> found = new LinkedHashMap<>();
        try {
            if (value.getClass().isRecord()) {
                for (RecordComponent component : value.getClass().getRecordComponents()) {
                    Method read = component.getAccessor();
                    read.setAccessible(true);
                    found.put(component.getName(), read.invoke(value));
                }
                return found;
            }
            for (Method method : value.getClass().getMethods()) {
                String name = method.getName();
                if (method.getParameterCount() > 0 || method.getDeclaringClass() == Object.class) continue;
                int prefix = name.startsWith("get") ? 3 : name.startsWith("is") ? 2 : 0;
                if (prefix == 0 || name.length() == prefix) continue;
                method.setAccessible(true);
                found.put(name.substring(prefix, prefix + 1).toLowerCase(Locale.ROOT) + name.substring(prefix + 1), method.invoke(value));
            }
        } catch (ReflectiveOperationException | RuntimeException e) {
            throw new Wrong("an object of " + value.getClass().getName() + " cannot be read: " + e);
        }
        if (found.isEmpty()) throw new Wrong("an object of " + value.getClass().getName() + " has nothing to write");
        return found;
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            boolean paired = Character.isHighSurrogate(c) && i + 1 < text.length() && Character.isLowSurrogate(text.charAt(i + 1));
            if (paired) out.append(c).append(text.charAt(++i));
            else if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ' || Character.isSurrogate(c)) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        out.append('"');
    }
}
