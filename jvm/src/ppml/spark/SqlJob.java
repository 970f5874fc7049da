package ppml.spark;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.Reader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.NameParameterizedQuery;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.Literal$;
import org.apache.spark.sql.catalyst.parser.ParseException;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import scala.jdk.javaapi.CollectionConverters;

/**
 * A SQL job in two phases, in one JVM. {@code judge}, with no secret anywhere: parse, judge, analyse over empty views,
 * answer with the columns of the result or an error in full; it may be asked again. {@code run}, after the lease: the
 * same query over the sealed files, answered by {@code done} or one code. Messages: {@code jvm/README.md}.
 */
public final class SqlJob {
    private final SparkSession session;
    private final AllowList allowed = new AllowList();
    private final Map<String, StructType> views = new TreeMap<>();
    private Judge judge;
    private LogicalPlan query;
    private StructType resultType;

    private SqlJob(SparkSession session) {
        this.session = session;
    }

    /** @param arguments the file with Spark's settings */
    public static void main(String[] arguments) throws IOException {
        try (Guest guest = Guest.connect()) {
            guest.send(Guest.JSON.createObjectNode().put("op", "control"));
            SqlJob job = new SqlJob(SparkSession.builder().config(settings(arguments[0])).getOrCreate());
            guest.send(Guest.JSON.createObjectNode().put("ready", true));
            for (JsonNode message = guest.receive(); message != null; message = guest.receive()) {
                guest.send(job.answer(message));
            }
        }
        Runtime.getRuntime().halt(0);
    }

    private static SparkConf settings(String file) throws IOException {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(file), StandardCharsets.UTF_8)) {
            properties.load(reader);
        }
        SparkConf settings = new SparkConf(false);
        properties.forEach((name, value) -> settings.set((String) name, (String) value));
        return settings;
    }

    private JsonNode answer(JsonNode message) {
        switch (message.path("op").asText()) {
            case "judge":
                try {
                    return judge(message);
                } catch (Refusal refusal) {
                    return refusal.answer();
                } catch (Throwable error) { // A deep nesting ends Spark's parser in an Error, for one.
                    return Messages.describe(error).answer();
                }
            case "run":
                try {
                    run(message);
                    return Guest.JSON.createObjectNode().put("done", true);
                } catch (Throwable error) { // Whatever it is, only a code may leave.
                    error.printStackTrace();
                    return Guest.JSON.createObjectNode().put("failed", Failure.code(error));
                }
            default:
                throw new IllegalArgumentException("guest sent an unknown message");
        }
    }

    // ------------------------------------------------------------------------------------------ phase 1

    private JsonNode judge(JsonNode message) throws Exception {
        query = null;
        grant(message.get("views"));
        Map<String, Expression> parameters = parameters(message.get("params"));
        judge = new Judge(allowed, views.keySet(), parameters.keySet());
        LogicalPlan parsed = parse(message.get("sql").asText());
        judge.judge(parsed);
        LogicalPlan bound = bind(parsed, parameters);
        resultType = analyse(bound).schema();
        query = bound;
        ArrayNode columns = Guest.JSON.createArrayNode();
        for (StructField field : resultType.fields()) {
            columns.addObject().put("name", field.name()).set("type", jsonType(field.dataType()));
        }
        return Guest.JSON.createObjectNode().set("columns", columns);
    }

    private void grant(JsonNode granted) {
        views.keySet().forEach(name -> session.catalog().dropTempView(name));
        views.clear();
        for (JsonNode view : granted) {
            StructType schema = (StructType) DataType.fromJson(view.get("schema").toString());
            views.put(view.get("name").asText(), schema);
            session.createDataFrame(List.of(), schema).createOrReplaceTempView(quoted(view.get("name").asText()));
        }
    }

    private LogicalPlan parse(String text) throws Exception {
        try {
            return session.sessionState().sqlParser().parsePlan(text);
        } catch (ParseException error) {
            throw SyntaxErrors.describe(text, error);
        }
    }

    /** Typed literals take the places of {@code :name} in the tree; text is never put together. */
    private static LogicalPlan bind(LogicalPlan parsed, Map<String, Expression> parameters) {
        if (parameters.isEmpty()) {
            return parsed;
        }
        List<String> names = new ArrayList<>(parameters.keySet());
        List<Expression> values = new ArrayList<>(parameters.values());
        return new NameParameterizedQuery(
                parsed, CollectionConverters.asScala(names).toSeq(), CollectionConverters.asScala(values).toSeq());
    }

    private static Map<String, Expression> parameters(JsonNode typed) {
        Map<String, Expression> parameters = new TreeMap<>();
        for (Map.Entry<String, JsonNode> field : typed.properties()) {
            parameters.put(
                    field.getKey(),
                    Literal$.MODULE$.apply(value(field.getValue().get("type").asText(), field.getValue().get("value"))));
        }
        return parameters;
    }

    private static Object value(String type, JsonNode value) {
        return switch (type) {
            case "integer" -> value.canConvertToInt() ? (Object) value.intValue() : (Object) value.longValue();
            case "boolean" -> value.booleanValue();
            case "decimal" -> new BigDecimal(value.asText());
            case "date" -> LocalDate.parse(value.asText());
            case "string" -> value.asText();
            default -> throw new IllegalArgumentException("guest sent a parameter of an unknown type");
        };
    }

    /** Analyses the query and judges what came of it: what a name stands for shows only now. */
    private Dataset<Row> analyse(LogicalPlan plan) throws Exception {
        Dataset<Row> result = org.apache.spark.sql.classic.Dataset.ofRows(
                (org.apache.spark.sql.classic.SparkSession) session, plan);
        judge.judge(result.queryExecution().analyzed());
        return result;
    }

    private static JsonNode jsonType(DataType type) {
        try {
            return Guest.JSON.readTree(type.json());
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    // ------------------------------------------------------------------------------------------ phase 2

    private void run(JsonNode message) throws Exception {
        if (query == null) {
            throw new IllegalStateException("nothing has been judged");
        }
        for (Map.Entry<String, StructType> view : views.entrySet()) {
            List<String> parts = new ArrayList<>();
            message.get("inputs").get(view.getKey()).forEach(part -> parts.add(part.asText()));
            if (!parts.isEmpty()) {
                session.read()
                        .schema(view.getValue())
                        .option("__globPaths__", "false") // A path is a path, whatever characters it has.
                        .parquet(parts.toArray(new String[0]))
                        .createOrReplaceTempView(quoted(view.getKey()));
            }
        }
        Dataset<Row> result = analyse(query);
        if (!result.schema().asNullable().equals(resultType.asNullable())) {
            throw new IllegalStateException("the result has other columns than were judged");
        }
        Output.write(result, message.get("folder").asText(), message.get("files").asInt());
    }

    private static String quoted(String name) {
        return "`" + name + "`";
    }
}
