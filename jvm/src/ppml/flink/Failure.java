package ppml.flink;

import java.time.DateTimeException;
import java.util.HashSet;
import java.util.Set;
import org.apache.flink.util.SerializedThrowable;

/**
 * What may be said of an error once secrets are in memory: one word of a closed vocabulary
 * ({@code ppml_airflow/workloads/vocabulary.py}). The text of an error goes to the log alone.
 */
public final class Failure {
    private static final Set<String> VALUE_ERRORS = Set.of(
            NumberFormatException.class.getName(), ArithmeticException.class.getName(),
            DateTimeException.class.getName(), "java.time.format.DateTimeParseException",
            "org.apache.flink.table.api.TableRuntimeException");

    private Failure() {}

    /** The code of an error, from the classes in its chain of causes, which may come from another Java machine. */
    public static String code(Throwable error) {
        Set<String> classes = new HashSet<>();
        Set<Throwable> seen = new HashSet<>();
        for (Throwable cause = error; cause != null && seen.add(cause); cause = cause.getCause()) {
            classes.add(
                    cause instanceof SerializedThrowable sent
                            ? sent.getOriginalErrorClassName()
                            : cause.getClass().getName());
        }
        if (classes.contains(OutOfMemoryError.class.getName())) {
            return "out_of_memory";
        }
        if (classes.contains(BrokenFrameException.class.getName())) {
            return "input_corrupt";
        }
        return classes.stream().anyMatch(VALUE_ERRORS::contains) ? "cast_error" : "job_failed";
    }
}
