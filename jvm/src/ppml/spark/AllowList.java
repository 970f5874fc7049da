package ppml.spark;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Locale;
import java.util.Set;
import org.apache.spark.sql.catalyst.FunctionIdentifier;
import org.apache.spark.sql.catalyst.analysis.FunctionRegistry;
import org.apache.spark.sql.catalyst.analysis.TableFunctionRegistry;
import org.apache.spark.sql.catalyst.expressions.ExpressionInfo;
import scala.Option;

/**
 * What a query may be made of: words of the text files beside this class ({@code #} starts a comment). The class that
 * Spark's own registry names for an allowed function is an allowed expression.
 */
final class AllowList {
    private static final String CATALYST = "org.apache.spark.sql.catalyst.";

    private final Set<String> plans = words("plans.txt");
    private final Set<String> expressions = words("expressions.txt");
    private final Set<String> fields = words("fields.txt");
    private final Set<String> functions = words("functions.txt");
    private final Set<String> tableFunctions = words("table-functions.txt");

    AllowList() {
        for (String name : functions) {
            addClass(FunctionRegistry.builtin().lookupFunction(FunctionIdentifier.apply(name)), name);
        }
        for (String name : tableFunctions) {
            addClass(TableFunctionRegistry.builtin().lookupFunction(FunctionIdentifier.apply(name)), name);
        }
    }

    boolean hasPlan(Class<?> plan) {
        return plans.contains(shortName(plan));
    }

    boolean hasExpression(Class<?> expression) {
        return expressions.contains(shortName(expression));
    }

    boolean hasField(Class<?> field) {
        return fields.contains(shortName(field));
    }

    boolean hasFunction(String name) {
        return functions.contains(name.toLowerCase(Locale.ROOT));
    }

    boolean hasTableFunction(String name) {
        return tableFunctions.contains(name.toLowerCase(Locale.ROOT));
    }

    /** The class name below {@code org.apache.spark.sql.catalyst}, as the files write it. */
    static String shortName(Class<?> type) {
        return shortName(type.getName());
    }

    private static String shortName(String className) {
        return className.startsWith(CATALYST) ? className.substring(CATALYST.length()) : className;
    }

    private void addClass(Option<ExpressionInfo> found, String name) {
        if (found.isEmpty()) {
            throw new IllegalStateException("allowed function " + name + " is not in this Spark");
        }
        expressions.add(shortName(found.get().getClassName()));
    }

    private static Set<String> words(String file) {
        Set<String> words = new HashSet<>();
        try (InputStream stream = AllowList.class.getResourceAsStream(file)) {
            for (String line : new String(stream.readAllBytes(), StandardCharsets.UTF_8).split("\n")) {
                if (!line.startsWith("#") && !line.isBlank()) {
                    words.addAll(Arrays.asList(line.trim().split("\\s+")));
                }
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return words;
    }
}
