package ppml.flink;

import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.table.types.logical.DecimalType;
import org.apache.flink.table.types.logical.LogicalType;

/** Column types: Arrow's, as manifests write them, and Flink's. */
final class Types {
    private static final Pattern DECIMAL = Pattern.compile("decimal128\\((\\d+), (\\d+)\\)");
    private static final Map<String, String> FLINK_OF_ARROW = Map.ofEntries(
            Map.entry("bool", "BOOLEAN"),
            Map.entry("int8", "TINYINT"),
            Map.entry("int16", "SMALLINT"),
            Map.entry("int32", "INT"),
            Map.entry("int64", "BIGINT"),
            Map.entry("float", "FLOAT"),
            Map.entry("double", "DOUBLE"),
            Map.entry("string", "STRING"),
            Map.entry("date32[day]", "DATE"),
            Map.entry("timestamp[us]", "TIMESTAMP(6)"),
            Map.entry("timestamp[us, tz=UTC]", "TIMESTAMP_LTZ(6)"));

    private Types() {}

    /** The type of an input's column, or null if no stream has it. */
    static String flink(String arrow) {
        Matcher decimal = DECIMAL.matcher(arrow);
        return decimal.matches()
                ? "DECIMAL(" + decimal.group(1) + ", " + decimal.group(2) + ")"
                : FLINK_OF_ARROW.get(arrow);
    }

    /** The type of a result's column as a manifest writes it. */
    static String arrow(String column, LogicalType type) throws Refusal {
        return switch (type.getTypeRoot()) {
            case BOOLEAN -> "bool";
            case TINYINT -> "int8";
            case SMALLINT -> "int16";
            case INTEGER -> "int32";
            case BIGINT -> "int64";
            case FLOAT -> "float";
            case DOUBLE -> "double";
            case CHAR, VARCHAR -> "string";
            case DATE -> "date32[day]";
            case TIMESTAMP_WITHOUT_TIME_ZONE -> "timestamp[us]";
            case TIMESTAMP_WITH_LOCAL_TIME_ZONE -> "timestamp[us, tz=UTC]";
            case DECIMAL -> "decimal128(" + ((DecimalType) type).getPrecision() + ", "
                    + ((DecimalType) type).getScale() + ")";
            default -> throw new Refusal("sql_invalid", column, "output column " + column + " has type "
                    + type.asSummaryString() + ", which a stream cannot hold; cast it to a number, string, date or"
                    + " timestamp");
        };
    }
}
