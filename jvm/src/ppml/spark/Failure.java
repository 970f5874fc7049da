package ppml.spark;

import java.util.HashSet;
import java.util.Set;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.crypto.TagVerificationException;

/**
 * What may be said of an error once secrets are in memory: one word of a closed vocabulary
 * ({@code ppml_airflow/workloads/vocabulary.py}). The text of an error goes to the log alone.
 */
public final class Failure {
    private static final Set<String> READ_ERRORS = Set.of("FAILED_READ_FILE", "PATH_NOT_FOUND");
    private static final Set<String> NAME_ERRORS = Set.of(
            "UNRESOLVED_COLUMN", "UNRESOLVED_USING_COLUMN_FOR_JOIN", "TABLE_OR_VIEW_NOT_FOUND");
    private static final Set<String> VALUE_ERRORS = Set.of(
            "CAST_INVALID_INPUT", "CAST_OVERFLOW", "CAST_OVERFLOW_IN_TABLE_INSERT", "ARITHMETIC_OVERFLOW",
            "BINARY_ARITHMETIC_OVERFLOW", "DIVIDE_BY_ZERO", "REMAINDER_BY_ZERO", "NUMERIC_VALUE_OUT_OF_RANGE",
            "NUMERIC_OUT_OF_SUPPORTED_RANGE", "INTERVAL_ARITHMETIC_OVERFLOW", "DATETIME_OVERFLOW",
            "INVALID_ARRAY_INDEX", "INVALID_ARRAY_INDEX_IN_ELEMENT_AT",
            "CANNOT_PARSE_TIMESTAMP", "INVALID_FRACTION_OF_SECOND", "DECIMAL_PRECISION_EXCEEDS_MAX_PRECISION");

    private Failure() {}

    /** The code of an error, from the classes and conditions in its chain of causes. */
    public static String code(Throwable error) {
        boolean isRead = false;
        boolean isValue = false;
        boolean isName = false;
        Set<Throwable> seen = new HashSet<>();
        for (Throwable cause = error; cause != null && seen.add(cause); cause = cause.getCause()) {
            String condition = Messages.condition(cause).split("\\.", 2)[0];
            if (cause instanceof OutOfMemoryError || condition.equals("UNABLE_TO_ACQUIRE_MEMORY")) {
                return "out_of_memory";
            }
            isRead |= READ_ERRORS.contains(condition) || cause instanceof TagVerificationException
                    || cause instanceof ParquetCryptoRuntimeException;
            isName |= NAME_ERRORS.contains(condition);
            isValue |= VALUE_ERRORS.contains(condition);
        }
        if (isRead) {
            return "input_corrupt";
        }
        if (isName) {
            return "input_mismatch";
        }
        return isValue ? "cast_error" : "job_failed";
    }
}
