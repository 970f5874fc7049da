package ppml.flink;

import java.io.DataInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;

/**
 * The header of a sealed record frame. It is authentic only once the frame has been opened. The format is described in
 * {@code ppml_airflow/sealing/frames.py}.
 */
record Frame(byte[] place, int partition, long sequence, int records, boolean isLast, int ciphertextBytes) {
    static final int HEADER_BYTES = 44;
    static final int NONCE_BYTES = 12;
    static final int TAG_BYTES = 16;
    static final int PLACE_BYTES = 16;
    private static final int MAGIC = 0x50504631; // PPF1
    private static final int LAST = 1;
    private static final int MAX_FRAME_BYTES = 64 << 20;

    /** The next header, or null at the end of the segment. */
    static Frame read(DataInputStream source, String segment) throws IOException {
        byte[] header = source.readNBytes(HEADER_BYTES);
        if (header.length == 0) {
            return null;
        }
        if (header.length < HEADER_BYTES) {
            throw new BrokenFrameException("segment " + segment + " is cut off within the header of a frame");
        }
        ByteBuffer buffer = ByteBuffer.wrap(header);
        int magic = buffer.getInt();
        byte[] place = new byte[PLACE_BYTES];
        buffer.get(place);
        int partition = buffer.getInt();
        long sequence = buffer.getLong();
        int records = buffer.getInt();
        int flags = buffer.getInt();
        int size = buffer.getInt();
        if (magic != MAGIC || (flags & ~LAST) != 0 || size < TAG_BYTES || size > MAX_FRAME_BYTES || records < 0) {
            throw new BrokenFrameException("segment " + segment + " holds no frame where one begins");
        }
        return new Frame(place, partition, sequence, records, flags == LAST, size);
    }

    byte[] encode() {
        return ByteBuffer.allocate(HEADER_BYTES)
                .putInt(MAGIC)
                .put(place)
                .putInt(partition)
                .putLong(sequence)
                .putInt(records)
                .putInt(isLast ? LAST : 0)
                .putInt(ciphertextBytes)
                .array();
    }

    /** How frames of the segment with this AAD say where they belong. */
    static byte[] placeOf(byte[] aad) {
        try {
            return Arrays.copyOf(MessageDigest.getInstance("SHA-256").digest(aad), PLACE_BYTES);
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    /** This frame and what is wrong with it, for the sealed log. */
    BrokenFrameException broken(String segment, String why) {
        return new BrokenFrameException(
                "segment " + segment + ", partition " + partition + ": frame " + sequence + " " + why);
    }
}
