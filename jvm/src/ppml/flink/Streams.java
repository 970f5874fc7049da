package ppml.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.TableDescriptor;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.catalog.Column;

/** The granted streams as tables, by their names, and where results go. For SQL jobs, and for Python jobs by Py4J. */
public final class Streams {
    private Streams() {}

    /**
     * Makes a stream a table.
     *
     * @param view {@code name}, {@code columns} of name and Arrow type, {@code segments} in order and, for event time,
     *     {@code event_time} with a column and {@code delay_s}
     */
    static void grant(TableEnvironment tables, JsonNode view) throws Refusal {
        String name = view.get("name").asText();
        String eventTime = view.path("event_time").asText("");
        Schema.Builder schema = Schema.newBuilder();
        boolean isThere = false;
        for (JsonNode column : view.get("columns")) {
            String type = Types.flink(column.get("type").asText());
            String columnName = column.get("name").asText();
            if (type == null) {
                throw new Refusal("unfit_input", columnName, "column " + columnName + " of " + name + " has type "
                        + column.get("type").asText() + ", which a stream cannot hold");
            }
            if (columnName.equals(eventTime)) {
                isThere = true;
                if (!type.startsWith("TIMESTAMP")) {
                    throw new Refusal("no_event_time", columnName, "column " + columnName + " of " + name
                            + " is no timestamp, so it cannot be the event time");
                }
                type = type.replace("(6)", "(3)"); // Flink's event time counts milliseconds.
            }
            schema.column(columnName, type);
        }
        if (!eventTime.isEmpty()) {
            if (!isThere) {
                throw new Refusal("no_event_time", eventTime, "event time " + eventTime + " is no column of " + name);
            }
            schema.watermark(
                    eventTime, "`" + eventTime + "` - INTERVAL '" + view.path("delay_s").asInt() + "' SECOND");
        }
        tables.createTemporaryTable("`" + name + "`", connector()
                .schema(schema.build())
                .option(StreamTables.SEGMENTS, segments(view))
                .build());
    }

    /** As {@link #grant}, from JSON text. */
    public static void grant(TableEnvironment tables, String view) throws Exception {
        grant(tables, Guest.JSON.readTree(view));
    }

    /** The columns of a table as JSON, each with a name and its type in a manifest. */
    public static String columns(Table table) throws Exception {
        return describe(table).toString();
    }

    static ArrayNode describe(Table table) throws Refusal {
        ArrayNode columns = Guest.JSON.createArrayNode();
        for (Column column : table.getResolvedSchema().getColumns()) {
            columns.addObject()
                    .put("name", column.getName())
                    .put("type", Types.arrow(column.getName(), column.getDataType().getLogicalType()));
        }
        return columns;
    }

    /** Writes a table as sealed segments of a private folder, and returns when all input has been read. */
    public static void write(Table table, String folder) throws Exception {
        table.insertInto(result(folder)).execute().await();
    }

    /** A table that writes the rows put into it as sealed segments of a private folder. */
    static TableDescriptor result(String folder) {
        return connector().option(StreamTables.FOLDER, folder).build();
    }

    private static TableDescriptor.Builder connector() {
        return TableDescriptor.forConnector(StreamTables.CONNECTOR)
                .format("json")
                .option("json.timestamp-format.standard", "ISO-8601")
                .option("json.encode.decimal-as-plain-number", "true");
    }

    private static List<String> segments(JsonNode view) {
        List<String> segments = new ArrayList<>();
        view.get("segments").forEach(segment -> segments.add(segment.asText()));
        return segments;
    }
}
