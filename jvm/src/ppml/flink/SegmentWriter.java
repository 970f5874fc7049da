package ppml.flink;

import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.GeneralSecurityException;

/** Writes the frames of one partition into one new segment. */
final class SegmentWriter implements AutoCloseable {
    static final int FRAME_RECORDS = 256;

    private final int partition;
    private final SegmentKey key;
    private final byte[] place;
    private final OutputStream target;
    private final Buffer buffer = new Buffer();
    private long sequence;
    private int records;

    SegmentWriter(int partition, Path path) throws IOException {
        this.partition = partition;
        this.key = SegmentKey.ask("write", path.toString());
        this.place = key.place();
        this.target = new BufferedOutputStream(Files.newOutputStream(path, StandardOpenOption.CREATE_NEW));
    }

    void write(byte[] record) throws IOException {
        if (records > 0) {
            buffer.write('\n');
        }
        buffer.write(record);
        if (++records == FRAME_RECORDS) {
            sealFrame(false);
        }
    }

    /** Marks the end of the partition; without it a segment is refused when it is read. */
    void finish() throws IOException {
        sealFrame(true);
        target.close();
    }

    private void sealFrame(boolean isLast) throws IOException {
        Frame frame = new Frame(place, partition, sequence++, records, isLast, buffer.size() + Frame.TAG_BYTES);
        byte[] nonce = key.newNonce();
        try {
            target.write(frame.encode());
            target.write(nonce);
            target.write(key.seal(frame, nonce, buffer.bytes(), buffer.size()));
        } catch (GeneralSecurityException error) {
            throw new IOException(error);
        }
        buffer.reset();
        records = 0;
    }

    @Override
    public void close() throws IOException {
        target.close();
    }

    /** Gives its bytes without a copy. */
    private static final class Buffer extends ByteArrayOutputStream {
        byte[] bytes() {
            return buf;
        }
    }
}
