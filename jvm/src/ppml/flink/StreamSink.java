package ppml.flink;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.RowKind;

/**
 * The result of a job, as sealed frames in the private directory: a segment for each subtask. Rows that a query takes
 * back do not appear: what changes is held until the input has ended, and only what stands then is written.
 */
final class StreamSink implements Sink<RowData> {
    private static final long serialVersionUID = 1L;

    private final String folder;
    private final boolean isChanging;
    private final SerializationSchema<RowData> records;

    StreamSink(String folder, boolean isChanging, SerializationSchema<RowData> records) {
        this.folder = folder;
        this.isChanging = isChanging;
        this.records = records;
    }

    @Override
    public SinkWriter<RowData> createWriter(WriterInitContext context) throws IOException {
        try {
            records.open(context.asSerializationSchemaInitializationContext());
        } catch (Exception error) {
            throw new IOException(error);
        }
        int subtask = context.getTaskInfo().getIndexOfThisSubtask();
        Files.createDirectories(Path.of(folder));
        Path segment = Path.of(folder, String.format("part-%05d", subtask));
        return new Writer(new SegmentWriter(subtask, segment));
    }

    private final class Writer implements SinkWriter<RowData> {
        private final SegmentWriter segment;
        private final Map<String, Long> standing = new LinkedHashMap<>();

        Writer(SegmentWriter segment) {
            this.segment = segment;
        }

        @Override
        public void write(RowData row, Context context) throws IOException {
            RowKind kind = row.getRowKind();
            row.setRowKind(RowKind.INSERT);
            byte[] record = records.serialize(row);
            row.setRowKind(kind);
            if (!isChanging) {
                segment.write(record);
                return;
            }
            boolean isAdded = kind == RowKind.INSERT || kind == RowKind.UPDATE_AFTER;
            standing.merge(new String(record, StandardCharsets.UTF_8), isAdded ? 1L : -1L, StreamSink::sum);
        }

        @Override
        public void flush(boolean isEnd) throws IOException {
            if (!isEnd) {
                return;
            }
            for (Map.Entry<String, Long> row : standing.entrySet()) {
                for (long left = row.getValue(); left > 0; left--) {
                    segment.write(row.getKey().getBytes(StandardCharsets.UTF_8));
                }
            }
            segment.finish();
        }

        @Override
        public void close() throws IOException {
            segment.close();
        }
    }

    /** Null, which removes the row, where nothing of it is left. */
    private static Long sum(Long left, Long right) {
        long both = left + right;
        return both == 0 ? null : both;
    }
}
