package ppml.flink;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.util.Arrays;
import java.util.List;

/**
 * Reads the frames of one partition, segment after segment, and refuses the first that is not the next: a dropped,
 * repeated, swapped, cut or changed one. What it gives is authentic and in order.
 */
final class PartitionReader implements AutoCloseable {
    private static final int BUFFER_BYTES = 1 << 16;

    private final int partition;
    private final List<String> segments;
    private int nextSegment;
    private long nextSequence;
    private boolean isEnded;
    private String name = "";
    private SegmentKey key;
    private DataInputStream source;

    PartitionReader(int partition, List<String> segments) {
        this.partition = partition;
        this.segments = segments;
    }

    /** Reads one segment that is open already. */
    static PartitionReader of(String name, InputStream segment, SegmentKey key, int partition) {
        PartitionReader reader = new PartitionReader(partition, List.of());
        reader.name = name;
        reader.key = key;
        reader.source = new DataInputStream(segment);
        return reader;
    }

    /** The number of the frame that comes next. */
    long nextSequence() {
        return nextSequence;
    }

    /** The plaintext of the next frame, or null when the partition has come to its end. */
    Opened next() throws IOException {
        for (;;) {
            Frame frame = source == null ? null : Frame.read(source, name);
            if (frame != null) {
                return open(frame);
            }
            close();
            if (nextSegment == segments.size()) {
                if (!isEnded) {
                    throw new BrokenFrameException("partition " + partition + ": frame " + nextSequence
                            + " is missing, with all that follow");
                }
                return null;
            }
            openSegment(Path.of(segments.get(nextSegment++)));
        }
    }

    private void openSegment(Path path) throws IOException {
        name = path.getFileName().toString();
        key = SegmentKey.ask("read", path.toString());
        source = new DataInputStream(new BufferedInputStream(Files.newInputStream(path), BUFFER_BYTES));
    }

    private Opened open(Frame frame) throws IOException {
        if (!Arrays.equals(frame.place(), key.place())) {
            throw frame.broken(name, "was sealed for another segment, version or stream");
        }
        requireNext(frame);
        byte[] nonce = source.readNBytes(Frame.NONCE_BYTES);
        byte[] ciphertext = source.readNBytes(frame.ciphertextBytes());
        if (nonce.length != Frame.NONCE_BYTES || ciphertext.length != frame.ciphertextBytes()) {
            throw frame.broken(name, "is cut off");
        }
        byte[] plain;
        try {
            plain = key.open(frame, nonce, ciphertext);
        } catch (GeneralSecurityException error) {
            throw frame.broken(name, "was changed, or sealed under another key");
        }
        nextSequence++;
        isEnded = frame.isLast();
        return new Opened(frame, plain);
    }

    private void requireNext(Frame frame) throws BrokenFrameException {
        if (frame.partition() != partition) {
            throw frame.broken(name, "is not of partition " + partition);
        }
        if (isEnded) {
            throw frame.broken(name, "comes after the last frame of its partition");
        }
        if (frame.sequence() > nextSequence) {
            throw new BrokenFrameException("segment " + name + ", partition " + partition + ": frame " + nextSequence
                    + " is missing, " + frame.sequence() + " stands in its place");
        }
        if (frame.sequence() < nextSequence) {
            throw frame.broken(name, "stands where frame " + nextSequence + " belongs");
        }
    }

    @Override
    public void close() throws IOException {
        if (source != null) {
            source.close();
            source = null;
        }
    }

    /** An opened frame: its records stand in {@code plain}, one a line. */
    record Opened(Frame frame, byte[] plain) {}
}
