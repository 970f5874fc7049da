package ppml.flink;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.core.io.SimpleVersionedSerializer;

/** A partition of a stream: its segments in order, and how many of its frames have been read. */
record StreamSplit(int partition, List<String> segments, long position) implements SourceSplit {
    @Override
    public String splitId() {
        return Integer.toString(partition);
    }

    static final class Serializer implements SimpleVersionedSerializer<StreamSplit> {
        @Override
        public int getVersion() {
            return 1;
        }

        @Override
        public byte[] serialize(StreamSplit split) throws IOException {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            try (DataOutputStream out = new DataOutputStream(bytes)) {
                out.writeInt(split.partition);
                out.writeLong(split.position);
                out.writeInt(split.segments.size());
                for (String segment : split.segments) {
                    out.writeUTF(segment);
                }
            }
            return bytes.toByteArray();
        }

        @Override
        public StreamSplit deserialize(int version, byte[] serialized) throws IOException {
            try (DataInputStream in = new DataInputStream(new ByteArrayInputStream(serialized))) {
                int partition = in.readInt();
                long position = in.readLong();
                List<String> segments = new ArrayList<>();
                for (int left = in.readInt(); left > 0; left--) {
                    segments.add(in.readUTF());
                }
                return new StreamSplit(partition, segments, position);
            }
        }
    }
}
