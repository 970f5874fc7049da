package ppml.spark;

import java.util.Map;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.AnalysisException;
import scala.Option;

/** Spark's errors in our words. Only for phase 1, where no data exists. */
final class Messages {
    private Messages() {}

    static Refusal describe(Throwable error) {
        if (error instanceof StackOverflowError) {
            return new Refusal("sql_invalid", "", "statement is nested too deep");
        }
        if (!(error instanceof AnalysisException analysis)) {
            return new Refusal("sql_invalid", condition(error), firstLine(error));
        }
        Option<Object> line = analysis.line();
        Option<Object> position = analysis.startPosition();
        Refusal refusal = describeAnalysis(analysis);
        return line.isDefined() && position.isDefined()
                ? refusal.at((Integer) line.get(), (Integer) position.get() + 1)
                : refusal;
    }

    private static Refusal describeAnalysis(AnalysisException error) {
        Map<String, String> details = error.getMessageParameters();
        String condition = condition(error);
        if (condition.startsWith("UNRESOLVED_COLUMN") || condition.equals("UNRESOLVED_USING_COLUMN_FOR_JOIN")) {
            String name = details.getOrDefault("objectName", details.getOrDefault("colName", "")).replace("`", "");
            return new Refusal("unknown_column", name, "column " + name + " is unknown");
        }
        if (condition.equals("TABLE_OR_VIEW_NOT_FOUND")) {
            String name = details.getOrDefault("relationName", "").replace("`", "");
            return new Refusal("unknown_table", name, "table " + name + " is not granted");
        }
        return new Refusal("sql_invalid", condition, firstLine(error));
    }

    /** The sentence of an error, without the echo of the statement and the plan that follow it. */
    static String firstLine(Throwable error) {
        String text = error instanceof AnalysisException analysis ? analysis.getSimpleMessage() : error.getMessage();
        if (text == null) {
            return error.getClass().getSimpleName();
        }
        String first = text.strip().split("\\s*(SQLSTATE|== SQL|\n)", 2)[0];
        return first.endsWith(".") ? first.substring(0, first.length() - 1) : first;
    }

    /** Spark's name of an error class, such as {@code CAST_INVALID_INPUT}; empty if it has none. */
    static String condition(Throwable error) {
        return error instanceof SparkThrowable known && known.getCondition() != null ? known.getCondition() : "";
    }
}
