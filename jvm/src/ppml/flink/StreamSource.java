package ppml.flink;

import java.io.DataInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.table.data.RowData;

/**
 * A sealed stream as a bounded source: a split for each partition, read frame by frame in sequence. However many
 * segments are there at once, their order is that of the frames, and each partition has a watermark of its own; so
 * none runs ahead of records that are still to come.
 */
final class StreamSource implements Source<RowData, StreamSplit, Void> {
    private static final long serialVersionUID = 1L;

    private final ArrayList<String> segments;
    private final DeserializationSchema<RowData> records;

    StreamSource(List<String> segments, DeserializationSchema<RowData> records) {
        this.segments = new ArrayList<>(segments);
        this.records = records;
    }

    @Override
    public Boundedness getBoundedness() {
        return Boundedness.BOUNDED;
    }

    @Override
    public SourceReader<RowData, StreamSplit> createReader(SourceReaderContext context) {
        return new StreamReader(context, records);
    }

    @Override
    public SplitEnumerator<StreamSplit, Void> createEnumerator(SplitEnumeratorContext<StreamSplit> context)
            throws IOException {
        return new Enumerator(context, splits());
    }

    @Override
    public SplitEnumerator<StreamSplit, Void> restoreEnumerator(
            SplitEnumeratorContext<StreamSplit> context, Void checkpoint) {
        return new Enumerator(context, List.of());
    }

    @Override
    public SimpleVersionedSerializer<StreamSplit> getSplitSerializer() {
        return new StreamSplit.Serializer();
    }

    @Override
    public SimpleVersionedSerializer<Void> getEnumeratorCheckpointSerializer() {
        return new NothingSerializer();
    }

    /** Groups the segments by the partition that their first frame names; its reader verifies that. */
    private List<StreamSplit> splits() throws IOException {
        Map<Integer, List<String>> partitions = new TreeMap<>();
        for (String segment : segments) {
            Path path = Path.of(segment);
            try (DataInputStream source = new DataInputStream(Files.newInputStream(path))) {
                Frame first = Frame.read(source, path.getFileName().toString());
                if (first == null) {
                    throw new BrokenFrameException("segment " + path.getFileName() + " holds no frame");
                }
                partitions.computeIfAbsent(first.partition(), partition -> new ArrayList<>()).add(segment);
            }
        }
        List<StreamSplit> splits = new ArrayList<>();
        partitions.forEach((partition, files) -> splits.add(new StreamSplit(partition, files, 0)));
        return splits;
    }

    /** Gives every reader its partitions at once, so that no watermark leaves a partition out. */
    private static final class Enumerator implements SplitEnumerator<StreamSplit, Void> {
        private final SplitEnumeratorContext<StreamSplit> context;
        private final List<StreamSplit> splits;

        Enumerator(SplitEnumeratorContext<StreamSplit> context, List<StreamSplit> splits) {
            this.context = context;
            this.splits = splits;
        }

        @Override
        public void addReader(int subtask) {
            for (int index = subtask; index < splits.size(); index += context.currentParallelism()) {
                context.assignSplit(splits.get(index), subtask);
            }
            context.signalNoMoreSplits(subtask);
        }

        @Override
        public void start() {}

        @Override
        public void handleSplitRequest(int subtask, String host) {}

        @Override
        public void addSplitsBack(List<StreamSplit> returned, int subtask) {} // A job is never restarted.

        @Override
        public Void snapshotState(long checkpoint) {
            return null;
        }

        @Override
        public void close() {}
    }

    private static final class NothingSerializer implements SimpleVersionedSerializer<Void> {
        @Override
        public int getVersion() {
            return 1;
        }

        @Override
        public byte[] serialize(Void nothing) {
            return new byte[0];
        }

        @Override
        public Void deserialize(int version, byte[] serialized) {
            return null;
        }
    }
}
