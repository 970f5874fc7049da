package ppml.flink;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;

/** Reads the vectors of frames as a job would, and prints what came of each: its records, or the error. For tests. */
public final class VectorReader {
    private VectorReader() {}

    /** @param arguments the file of vectors */
    public static void main(String[] arguments) throws Exception {
        JsonNode vectors = Guest.JSON.readTree(Path.of(arguments[0]).toFile());
        ArrayNode results = Guest.JSON.createArrayNode();
        for (JsonNode vector : vectors.get("segments")) {
            SegmentKey key = new SegmentKey(vectors.get("key").binaryValue(), vectors.get("aad").binaryValue());
            results.add(read(vector, key));
        }
        System.out.println(results);
    }

    private static ObjectNode read(JsonNode vector, SegmentKey key) throws IOException {
        ObjectNode result = Guest.JSON.createObjectNode();
        ArrayNode records = result.putArray("records");
        try (PartitionReader reader = PartitionReader.of("part-00000",
                new ByteArrayInputStream(vector.get("segment").binaryValue()), key, vector.path("partition").asInt(3))) {
            for (PartitionReader.Opened frame = reader.next(); frame != null; frame = reader.next()) {
                if (frame.frame().records() > 0) {
                    for (String record : new String(frame.plain(), StandardCharsets.UTF_8).split("\n", -1)) {
                        records.add(record);
                    }
                }
            }
        } catch (BrokenFrameException error) {
            result.put("error", error.getMessage());
        }
        return result;
    }
}
