package broker;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.tools.Diagnostic;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/** From a handler's name to the method, each way to fail told apart; and its call. */
final class Handler {
    /** Why the handler cannot be had: broker's name of the error, one sentence, and what was thrown, if anything. */
    @SuppressWarnings("serial")
    static final class Refused extends Exception {
        final String kind;

        Refused(String kind, String message, Throwable cause) {
            super(message, cause);
            this.kind = kind;
        }
    }

    private static final int MOST_FILES = 5000;

    final List<Path> files = new ArrayList<>();
    private final Method method;
    private final Object target;
    private final boolean streams;

    /** Find `PLACE:CLASS::METHOD`, where PLACE is a jar, a folder of classes or a source file, or `CLASS::METHOD`. */
    Handler(String handler, Path root) throws Refused {
        String[] parts = handler.split("::", 2);
        int colon = parts[0].indexOf(':');
        String place = colon < 0 ? "" : parts[0].substring(0, colon);
        String name = parts[0].substring(colon + 1);
        String called = parts.length > 1 ? parts[1] : "handleRequest";
        ClassLoader loader = new URLClassLoader(urls(classpath(place, name, root)), ClassLoader.getPlatformClassLoader());
        Thread.currentThread().setContextClassLoader(loader);
        String shown = place.isEmpty() ? name : place;
        try {
            Class<?> type = Class.forName(name, true, loader);
            method = pick(type, called);
            streams = isStream(method);
            check(method);
            method.setAccessible(true);
            if (Modifier.isStatic(method.getModifiers())) target = null;
            else {
                Constructor<?> constructor = type.getDeclaredConstructor();
                constructor.setAccessible(true);
                target = constructor.newInstance();
            }
        } catch (ClassNotFoundException e) {
            if (!name.equals(e.getMessage())) throw failed(shown, e);
            throw new Refused("HandlerMissing", place.isEmpty() ? "there is no class " + name : place + " has no class '" + name + "'", null);
        } catch (NoSuchMethodException e) {
            throw new Refused("InitFailed", name + " has no constructor without arguments", null);
        } catch (InvocationTargetException | ExceptionInInitializerError e) {
            throw failed(shown, e.getCause());
        } catch (ReflectiveOperationException | LinkageError e) {
            throw failed(shown, e);
        }
    }

    private static Refused failed(String shown, Throwable error) {
        String message = error.getMessage() == null ? "" : ": " + error.getMessage();
        return new Refused("InitFailed", "loading " + shown + " failed: " + error.getClass().getSimpleName() + message, error);
    }

    private List<Path> classpath(String place, String name, Path root) throws Refused {
        if (place.isEmpty()) {
            List<Path> found = new ArrayList<>(List.of(root));
            try (Stream<Path> jars = Files.list(root.resolve("lib"))) {
                jars.filter(jar -> jar.toString().endsWith(".jar")).sorted().forEach(found::add);
            } catch (IOException e) {
                // there is no lib
            }
            files.addAll(found.subList(1, found.size()));
            Path own = root.resolve(name.replace('.', '/') + ".class");
            if (Files.exists(own)) files.add(own);
            return found;
        }
        Path path = FileSystems.getDefault().getPath(root.toString()).resolve(place);
        if (!Files.exists(path)) throw new Refused("HandlerMissing", "there is no file " + place, null);
        if (place.endsWith(".java")) {
            files.add(path);
            return List.of(compile(path, place, root));
        }
        if (!Files.isDirectory(path)) files.add(path);
        else
            try (Stream<Path> below = Files.walk(path)) {
                below.filter(each -> each.toString().endsWith(".class")).limit(MOST_FILES).forEach(files::add);
            } catch (IOException e) {
                throw failed(place, e);
            }
        return List.of(path);
    }

    private static URL[] urls(List<Path> places) throws Refused {
        try {
            List<URL> found = new ArrayList<>();
            for (Path place : places) found.add(place.toUri().toURL());
            return found.toArray(new URL[0]);
        } catch (IOException e) {
            throw failed(places.toString(), e);
        }
    }

    /** Compile one source file into the environment's own /tmp. */
    private static Path compile(Path source, String place, Path root) throws Refused {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        if (compiler == null) throw new Refused("InitFailed", place + " needs a JDK; this Java has no compiler", null);
        DiagnosticCollector<JavaFileObject> found = new DiagnosticCollector<>();
        try (StandardJavaFileManager manager = compiler.getStandardFileManager(found, null, StandardCharsets.UTF_8)) {
            Path classes = Files.createTempDirectory("classes");
            String libraries = root + File.pathSeparator + root.resolve("lib") + File.separator + "*";
            List<String> options = List.of("-d", classes.toString(), "-cp", libraries, "-proc:none", "-g");
            if (compiler.getTask(null, manager, found, options, null, manager.getJavaFileObjects(source)).call()) return classes;
        } catch (IOException e) {
            throw failed(place, e);
        }
        for (Diagnostic<? extends JavaFileObject> each : found.getDiagnostics()) {
            if (each.getKind() == Diagnostic.Kind.ERROR) {
                String message = each.getMessage(null).lines().collect(Collectors.joining(" "));
                throw new Refused("InitFailed", "error in " + place + ", line " + each.getLineNumber() + ": " + message, null);
            }
        }
        throw new Refused("InitFailed", place + " cannot be compiled", null);
    }

    private static Method pick(Class<?> type, String name) throws Refused {
        Method best = null;
        List<String> others = new ArrayList<>();
        for (Class<?> each = type; each != null && each != Object.class; each = each.getSuperclass()) {
            for (Method method : each.getDeclaredMethods()) {
                if (method.isBridge() || method.isSynthetic()) continue;
                if (Modifier.isPublic(method.getModifiers())) others.add(method.getName());
                if (!method.getName().equals(name)) continue;
                boolean more = best == null || method.getParameterCount() > best.getParameterCount();
                if (more && (best == null || method.getParameterCount() <= 3)) best = method;
            }
        }
        if (best != null) return best;
        String known = others.isEmpty() ? "" : "; it has " + others.stream().distinct().limit(8).collect(Collectors.joining(", "));
        throw new Refused("HandlerMissing", type.getName() + " has no '" + name + "'" + known, null);
    }

    private static boolean isStream(Method method) {
        Class<?>[] types = method.getParameterTypes();
        return types.length >= 2 && types[0] == InputStream.class && types[1] == OutputStream.class;
    }

    private void check(Method method) throws Refused {
        Class<?>[] types = method.getParameterTypes();
        int most = streams ? 3 : 2;
        boolean context = types.length < most || types[most - 1].isInterface() || types[most - 1] == Object.class;
        if (types.length >= 1 && types.length <= most && context) return;
        String takes = Arrays.stream(types).map(Class::getSimpleName).collect(Collectors.joining(", "));
        String forms = "a handler takes (event), (event, context) or (InputStream, OutputStream, context)";
        throw new Refused("InitFailed", forms + ", but '" + method.getName() + "' takes (" + takes + ")", null);
    }

    /** Return the result as JSON. */
    byte[] call(String event, Map<String, Object> context) throws Throwable {
        try {
            if (streams) return stream(event, context);
            Object[] given = new Object[method.getParameterCount()];
            given[0] = Convert.to(event, method.getGenericParameterTypes()[0]);
            if (given.length > 1) given[1] = Context.as(method.getParameterTypes()[1], context);
            Object result = method.invoke(target, given);
            if (result instanceof CompletionStage) result = ((CompletionStage<?>) result).toCompletableFuture().join();
            return Json.write(result).getBytes(StandardCharsets.UTF_8);
        } catch (InvocationTargetException e) {
            throw e.getCause();
        } catch (java.util.concurrent.CompletionException e) {
            throw e.getCause() == null ? e : e.getCause();
        }
    }

    private byte[] stream(String event, Map<String, Object> context) throws ReflectiveOperationException {
        InputStream in = new ByteArrayInputStream(event.getBytes(StandardCharsets.UTF_8));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        if (method.getParameterCount() == 2) method.invoke(target, in, out);
        else method.invoke(target, in, out, Context.as(method.getParameterTypes()[2], context));
        if (out.size() == 0) return "null".getBytes(StandardCharsets.UTF_8);
        Json.read(out.toString(StandardCharsets.UTF_8));
        return out.toByteArray();
    }
}
