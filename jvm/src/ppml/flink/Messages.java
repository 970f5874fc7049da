package ppml.flink;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.calcite.runtime.CalciteContextException;
import org.apache.calcite.sql.parser.SqlParseException;
import org.apache.flink.util.ExceptionUtils;

/** Flink's and Calcite's errors in our words. Only for phase 1, where no data exists. */
final class Messages {
    private static final Pattern COLUMN = Pattern.compile("Column '([^']*)' not found in any table");
    private static final Pattern FIELD = Pattern.compile("Column '([^']*)' not found in table");
    private static final Pattern OBJECT = Pattern.compile("Object '([^']*)' not found");

    private Messages() {}

    static Refusal describe(Throwable error) {
        if (error instanceof StackOverflowError) {
            return new Refusal("sql_invalid", "", "statement is nested too deep");
        }
        SqlParseException syntax = ExceptionUtils.findThrowable(error, SqlParseException.class).orElse(null);
        if (syntax != null) {
            return new Refusal("sql_syntax", "", "syntax error: " + firstLine(syntax)).at(syntax.getPos());
        }
        CalciteContextException place =
                ExceptionUtils.findThrowable(error, CalciteContextException.class).orElse(null);
        String text = firstLine(place == null ? deepest(error) : place.getCause());
        Refusal refusal = named(text);
        return place == null ? refusal : refusal.at(place.getPosLine(), place.getPosColumn());
    }

    private static Refusal named(String text) {
        for (Pattern pattern : new Pattern[] {COLUMN, FIELD}) {
            Matcher matcher = pattern.matcher(text);
            if (matcher.find()) {
                return new Refusal("unknown_column", matcher.group(1), "column " + matcher.group(1) + " is unknown");
            }
        }
        Matcher matcher = OBJECT.matcher(text);
        if (matcher.find()) {
            return new Refusal("unknown_table", matcher.group(1), "table " + matcher.group(1) + " is not granted");
        }
        return new Refusal("sql_invalid", "", text);
    }

    private static Throwable deepest(Throwable error) {
        Throwable cause = error;
        while (cause.getCause() != null && cause.getCause() != cause) {
            cause = cause.getCause();
        }
        return cause.getMessage() == null ? error : cause;
    }

    private static String firstLine(Throwable error) {
        String text = error.getMessage();
        return text == null ? error.getClass().getSimpleName() : text.strip().split("\\s*\n", 2)[0];
    }
}
