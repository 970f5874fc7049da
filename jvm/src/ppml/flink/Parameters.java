package ppml.flink;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.calcite.avatica.util.TimeUnit;
import org.apache.calcite.avatica.util.TimeUnitRange;
import org.apache.calcite.rel.type.RelDataType;
import org.apache.calcite.sql.SqlCall;
import org.apache.calcite.sql.SqlDynamicParam;
import org.apache.calcite.sql.SqlIntervalLiteral;
import org.apache.calcite.sql.SqlIntervalQualifier;
import org.apache.calcite.sql.SqlKind;
import org.apache.calcite.sql.SqlLiteral;
import org.apache.calcite.sql.SqlNode;
import org.apache.calcite.sql.SqlNumericLiteral;
import org.apache.calcite.sql.parser.SqlParserPos;
import org.apache.calcite.sql.util.SqlShuttle;
import org.apache.calcite.util.DateString;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;

/**
 * The params of a run in a query. In its text {@code :name} becomes a placeholder of the grammar, and in the parsed tree
 * a typed literal takes the placeholder's place: no value is ever put into a text.
 */
final class Parameters {
    /** Skips strings, quoted names and comments; group 1 is a param, group 2 a placeholder that the author wrote. */
    private static final Pattern TOKENS = Pattern.compile(
            "'(?:[^']|'')*'|`(?:[^`]|``)*`|--[^\\n]*|/\\*.*?\\*/|:([A-Za-z_][A-Za-z0-9_]*)|(\\?)", Pattern.DOTALL);

    private static final Map<TimeUnitRange, Long> SECONDS = Map.of(
            TimeUnitRange.SECOND, 1L, TimeUnitRange.MINUTE, 60L, TimeUnitRange.HOUR, 3_600L, TimeUnitRange.DAY, 86_400L);
    private static final int DAY_DIGITS = 6;

    private final JsonNode values;
    private final List<String> names = new ArrayList<>();

    /** @param values by name, each with a {@code type} and a {@code value} */
    Parameters(JsonNode values) {
        this.values = values;
    }

    /** Puts placeholders for params; every other character keeps its place. */
    String mark(String text) throws Refusal {
        names.clear();
        StringBuilder marked = new StringBuilder(text);
        Matcher matcher = TOKENS.matcher(text);
        while (matcher.find()) {
            if (matcher.group(2) != null) {
                throw place(new Refusal("sql_refused", "?", "placeholder ? is not allowed; write :name"), text, matcher);
            }
            String name = matcher.group(1);
            if (name == null) {
                continue;
            }
            if (!values.has(name)) {
                TreeSet<String> declared = new TreeSet<>();
                values.fieldNames().forEachRemaining(declared::add);
                throw place(new Refusal("unknown_parameter", name, "parameter :" + name + " is not declared; declared"
                        + " are: " + declared), text, matcher);
            }
            marked.replace(matcher.start(), matcher.end(), "?" + " ".repeat(name.length()));
            names.add(name);
        }
        return marked.toString();
    }

    /** Puts literals for placeholders. An interval times a param becomes an interval, as windows want one. */
    SqlNode bind(SqlNode statement) {
        return statement.accept(new SqlShuttle() {
            @Override
            public SqlNode visit(SqlDynamicParam param) {
                JsonNode literal = values.get(names.get(param.getIndex()));
                return literal(literal.get("type").asText(), literal.get("value"), param.getParserPosition());
            }

            @Override
            public SqlNode visit(SqlCall call) {
                SqlNode visited = super.visit(call);
                return visited instanceof SqlCall product && product.getKind() == SqlKind.TIMES
                        ? multiplied(product)
                        : visited;
            }
        });
    }

    private static SqlNode multiplied(SqlCall product) {
        SqlNode left = product.operand(0);
        SqlNode right = product.operand(1);
        if (left instanceof SqlNumericLiteral && right instanceof SqlIntervalLiteral) {
            return multiplied((SqlIntervalLiteral) right, (SqlNumericLiteral) left, product);
        }
        return left instanceof SqlIntervalLiteral interval && right instanceof SqlNumericLiteral number
                ? multiplied(interval, number, product)
                : product;
    }

    /** Days to seconds hold every product; a qualifier of one unit has room for two digits only. */
    private static SqlNode multiplied(SqlIntervalLiteral literal, SqlNumericLiteral number, SqlCall product) {
        SqlIntervalLiteral.IntervalValue interval = literal.getValueAs(SqlIntervalLiteral.IntervalValue.class);
        Long seconds = SECONDS.get(interval.getIntervalQualifier().timeUnitRange);
        if (seconds == null || !number.isInteger() || !interval.getIntervalLiteral().matches("\\d{1,9}")) {
            return product;
        }
        long once = Math.multiplyExact(seconds, Long.parseLong(interval.getIntervalLiteral()));
        Duration total = Duration.ofSeconds(Math.multiplyExact(once, number.longValue(true)));
        String text = String.format("%d %02d:%02d:%02d", Math.abs(total.toDays()), Math.abs(total.toHoursPart()),
                Math.abs(total.toMinutesPart()), Math.abs(total.toSecondsPart()));
        SqlIntervalQualifier qualifier = new SqlIntervalQualifier(
                TimeUnit.DAY, DAY_DIGITS, TimeUnit.SECOND, RelDataType.PRECISION_NOT_SPECIFIED, SqlParserPos.ZERO);
        int sign = interval.getSign() * (total.isNegative() ? -1 : 1);
        return SqlLiteral.createInterval(sign, text, qualifier, product.getParserPosition());
    }

    private static SqlNode literal(String type, JsonNode value, SqlParserPos position) {
        return switch (type) {
            case "integer", "decimal" -> SqlLiteral.createExactNumeric(value.asText(), position);
            case "boolean" -> SqlLiteral.createBoolean(value.asBoolean(), position);
            case "date" -> SqlLiteral.createDate(new DateString(value.asText()), position);
            case "string" -> SqlLiteral.createCharString(value.asText(), "UTF-16LE", position);
            default -> throw new IllegalArgumentException("guest sent a parameter of an unknown type");
        };
    }

    private static Refusal place(Refusal refusal, String text, Matcher matcher) {
        String before = text.substring(0, matcher.start());
        int line = 1 + (int) before.chars().filter(character -> character == '\n').count();
        return refusal.at(line, matcher.start() - before.lastIndexOf('\n'));
    }
}
