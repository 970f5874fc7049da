package ppml.flink;

import java.io.IOException;
import org.apache.calcite.sql.SqlNode;
import org.apache.calcite.sql.SqlNodeList;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.ExplainDetail;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.internal.TableEnvironmentImpl;
import org.apache.flink.table.operations.QueryOperation;
import org.apache.flink.table.planner.calcite.FlinkPlannerImpl;
import org.apache.flink.table.planner.delegation.PlannerBase;
import org.apache.flink.table.planner.operations.SqlNodeToOperationConversion;

/**
 * A SQL job in two phases, in the JobManager of its own cluster. {@code judge}, with no secret anywhere: parse, judge,
 * validate and plan over the granted streams, answer with the columns of the result or an error in full. {@code run},
 * after the lease: the plan that was judged, answered by {@code done} or one code. Messages: {@code jvm/README.md}.
 */
public final class SqlJob {
    private final AllowList allowed = new AllowList();
    private Table result;
    private String folder;

    private SqlJob() {}

    /** @param arguments none */
    public static void main(String[] arguments) throws IOException {
        try (Guest guest = Guest.connect()) {
            guest.send(Guest.JSON.createObjectNode().put("op", "control"));
            SqlJob job = new SqlJob();
            guest.send(Guest.JSON.createObjectNode().put("ready", true));
            for (JsonNode message = guest.receive(); message != null; message = guest.receive()) {
                guest.send(job.answer(message));
            }
        }
        Runtime.getRuntime().halt(0);
    }

    private JsonNode answer(JsonNode message) {
        switch (message.path("op").asText()) {
            case "judge":
                try {
                    return judge(message);
                } catch (Refusal refusal) {
                    return refusal.answer();
                } catch (Throwable error) { // A deep nesting ends the parser in an Error, for one.
                    error.printStackTrace();
                    return Messages.describe(error).answer();
                }
            case "run":
                try {
                    run();
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
        result = null;
        folder = message.get("folder").asText();
        TableEnvironmentImpl tables =
                (TableEnvironmentImpl) TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        for (JsonNode view : message.get("views")) {
            Streams.grant(tables, view);
        }
        Parameters parameters = new Parameters(message.get("params"));
        FlinkPlannerImpl planner = ((PlannerBase) tables.getPlanner()).createFlinkPlanner();
        SqlNode statement = parameters.bind(parse(planner, parameters.mark(message.get("sql").asText())));
        new Judge(allowed, planner.getOrCreateSqlValidator()).judge(statement);
        QueryOperation query = (QueryOperation) SqlNodeToOperationConversion.convert(
                        planner, tables.getCatalogManager(), statement)
                .orElseThrow();
        Table judged = tables.createTable(query);
        ArrayNode columns = Streams.describe(judged);
        judged.insertInto(Streams.result(folder)).explain(ExplainDetail.CHANGELOG_MODE);
        result = judged;
        return Guest.JSON.createObjectNode().set("columns", columns);
    }

    private static SqlNode parse(FlinkPlannerImpl planner, String text) throws Refusal {
        SqlNodeList statements = planner.parser().parseSqlList(text);
        if (statements.size() != 1) {
            throw new Refusal("sql_refused", "statements", "text holds " + statements.size() + " statements; wanted one");
        }
        return statements.get(0);
    }

    // ------------------------------------------------------------------------------------------ phase 2

    private void run() throws Exception {
        if (result == null) {
            throw new IllegalStateException("nothing has been judged");
        }
        Streams.write(result, folder);
    }
}
