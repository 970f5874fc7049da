package ppml.flink;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;

/** What opens or writes one segment, asked of the guest: never in a setting, an argument or the environment. */
final class SegmentKey {
    private static final int TAG_BITS = 128;

    private final SecretKeySpec key;
    private final byte[] aad;
    private final Cipher cipher;
    private final SecureRandom random = new SecureRandom();

    SegmentKey(byte[] key, byte[] aad) throws GeneralSecurityException {
        this.key = new SecretKeySpec(key, "AES");
        this.aad = aad;
        this.cipher = Cipher.getInstance("AES/GCM/NoPadding");
    }

    /** @param operation {@code read} or {@code write} */
    static SegmentKey ask(String operation, String path) throws IOException {
        JsonNode answer = Guest.ask(Guest.JSON.createObjectNode().put("op", operation).put("path", path));
        if (answer.has("refused")) {
            throw new IOException(
                    "guest refused to " + operation + " " + path + ": " + answer.get("refused").asText());
        }
        try {
            return new SegmentKey(answer.get("key").binaryValue(), answer.get("aad").binaryValue());
        } catch (GeneralSecurityException error) {
            throw new IOException(error);
        }
    }

    byte[] place() {
        return Frame.placeOf(aad);
    }

    byte[] newNonce() {
        byte[] nonce = new byte[Frame.NONCE_BYTES];
        random.nextBytes(nonce);
        return nonce;
    }

    byte[] open(Frame frame, byte[] nonce, byte[] ciphertext) throws GeneralSecurityException {
        return start(Cipher.DECRYPT_MODE, frame, nonce).doFinal(ciphertext);
    }

    byte[] seal(Frame frame, byte[] nonce, byte[] plain, int length) throws GeneralSecurityException {
        return start(Cipher.ENCRYPT_MODE, frame, nonce).doFinal(plain, 0, length);
    }

    private Cipher start(int mode, Frame frame, byte[] nonce) throws GeneralSecurityException {
        cipher.init(mode, key, new GCMParameterSpec(TAG_BITS, nonce));
        cipher.updateAAD(aad);
        cipher.updateAAD(ByteBuffer.wrap(frame.encode()));
        return cipher;
    }
}
