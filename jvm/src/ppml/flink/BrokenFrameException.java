package ppml.flink;

import java.io.IOException;

/** A frame is missing, repeated, swapped, cut or changed; the message names segment, partition and sequence. */
final class BrokenFrameException extends IOException {
    private static final long serialVersionUID = 1L;

    BrokenFrameException(String message) {
        super(message);
    }
}
