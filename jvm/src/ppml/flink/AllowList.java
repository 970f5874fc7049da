package ppml.flink;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Locale;
import java.util.Set;

/** What a query may be made of: words of the text files beside this class ({@code #} starts a comment). */
final class AllowList {
    private final Set<String> nodes = words("nodes.txt");
    private final Set<String> functions = words("functions.txt");

    /** Whether a statement may hold nodes of this class of Calcite or Flink. */
    boolean hasNode(Class<?> node) {
        return nodes.contains(node.getSimpleName());
    }

    /** Whether a query may call a function or operator; operators of several words are written with underscores. */
    boolean hasFunction(String name) {
        return functions.contains(name.trim().toLowerCase(Locale.ROOT).replace(' ', '_'));
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
