package ppml.flink;

import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.SourceOutput;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.table.data.RowData;
import org.apache.flink.util.SimpleUserCodeClassLoader;
import org.apache.flink.util.UserCodeClassLoader;

/** Reads partitions in turns, one frame at a time, each into an output with a watermark of its own. */
final class StreamReader implements SourceReader<RowData, StreamSplit> {
    private final SourceReaderContext context;
    private final DeserializationSchema<RowData> records;
    private final Queue<Open> partitions = new ArrayDeque<>();
    private final CompletableFuture<Void> assigned = new CompletableFuture<>();
    private boolean isAssigned;

    StreamReader(SourceReaderContext context, DeserializationSchema<RowData> records) {
        this.context = context;
        this.records = records;
    }

    @Override
    public void start() {
        try {
            records.open(new OpenContext(context));
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public InputStatus pollNext(ReaderOutput<RowData> output) throws Exception {
        Open open = partitions.peek();
        if (open == null) {
            return isAssigned ? InputStatus.END_OF_INPUT : InputStatus.NOTHING_AVAILABLE;
        }
        if (open.output == null) { // All at once: an output that is not there yet would not hold the watermark back.
            for (Open each : partitions) {
                each.output = output.createOutputForSplit(each.split.splitId());
            }
        }
        PartitionReader.Opened frame = open.reader.next();
        partitions.remove();
        if (frame == null) {
            open.reader.close();
            output.releaseOutputForSplit(open.split.splitId());
        } else {
            emit(frame, open.output);
            partitions.add(open);
        }
        return InputStatus.MORE_AVAILABLE;
    }

    private void emit(PartitionReader.Opened frame, SourceOutput<RowData> output) throws IOException {
        if (frame.frame().records() == 0) {
            return;
        }
        byte[] plain = frame.plain();
        int found = 0;
        for (int start = 0; start <= plain.length; found++) {
            int end = start;
            while (end < plain.length && plain[end] != '\n') {
                end++;
            }
            output.collect(records.deserialize(Arrays.copyOfRange(plain, start, end)));
            start = end + 1;
        }
        if (found != frame.frame().records()) {
            throw new BrokenFrameException("frame " + frame.frame().sequence() + " holds another number of records");
        }
    }

    @Override
    public void addSplits(List<StreamSplit> splits) {
        splits.forEach(split -> partitions.add(new Open(split)));
    }

    @Override
    public void notifyNoMoreSplits() {
        isAssigned = true;
        assigned.complete(null);
    }

    @Override
    public CompletableFuture<Void> isAvailable() {
        return assigned;
    }

    @Override
    public List<StreamSplit> snapshotState(long checkpoint) {
        List<StreamSplit> state = new ArrayList<>();
        partitions.forEach(open -> state.add(new StreamSplit(
                open.split.partition(), open.split.segments(), open.reader.nextSequence())));
        return state;
    }

    @Override
    public void notifyCheckpointComplete(long checkpoint) {}

    @Override
    public void close() throws IOException {
        for (Open open : partitions) {
            open.reader.close();
        }
    }

    private static final class Open {
        private final StreamSplit split;
        private final PartitionReader reader;
        private SourceOutput<RowData> output;

        Open(StreamSplit split) {
            this.split = split;
            this.reader = new PartitionReader(split.partition(), split.segments());
        }
    }

    private record OpenContext(SourceReaderContext context) implements DeserializationSchema.InitializationContext {
        @Override
        public MetricGroup getMetricGroup() {
            return context.metricGroup();
        }

        @Override
        public UserCodeClassLoader getUserCodeClassLoader() {
            return SimpleUserCodeClassLoader.create(OpenContext.class.getClassLoader());
        }
    }
}
