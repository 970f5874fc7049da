package ppml.spark;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.crypto.DecryptionPropertiesFactory;
import org.apache.parquet.crypto.EncryptionPropertiesFactory;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.hadoop.api.WriteSupport.WriteContext;

/**
 * Parquet modular encryption with a key and an AAD prefix per file, both from the guest. Every file is encrypted:
 * a plain one is refused when read and cannot be written. The AAD prefix is not stored in the file, so that a file
 * under another name, dataset or version does not open. Nothing is cached: what the guest refuses is refused.
 */
public final class GuestKeys implements DecryptionPropertiesFactory, EncryptionPropertiesFactory {

    @Override
    public FileDecryptionProperties getFileDecryptionProperties(Configuration configuration, Path path) {
        JsonNode answer = ask("read", path, configuration);
        return FileDecryptionProperties.builder()
                .withFooterKey(bytes(answer, "key"))
                .withAADPrefix(bytes(answer, "aad"))
                .build();
    }

    @Override
    public FileEncryptionProperties getFileEncryptionProperties(
            Configuration configuration, Path path, WriteContext context) {
        JsonNode answer = ask("write", path, configuration);
        return FileEncryptionProperties.builder(bytes(answer, "key"))
                .withAADPrefix(bytes(answer, "aad"))
                .withoutAADPrefixStorage()
                .build();
    }

    private static JsonNode ask(String operation, Path path, Configuration configuration) {
        String name = path.toUri().getPath();
        JsonNode answer;
        try {
            name = new PrivateFolder(configuration).here(java.nio.file.Path.of(name)).toString();
            answer = Guest.ask(Guest.JSON.createObjectNode().put("op", operation).put("path", name));
        } catch (IOException error) {
            throw new ParquetCryptoRuntimeException("guest did not answer for " + name, error);
        }
        if (answer.has("refused")) {
            throw new KeyRefusedException(operation, name, answer.get("refused").asText());
        }
        return answer;
    }

    private static byte[] bytes(JsonNode answer, String field) {
        try {
            byte[] value = answer.path(field).binaryValue();
            if (value == null || value.length == 0) {
                throw new ParquetCryptoRuntimeException("guest's answer has no " + field);
            }
            return value;
        } catch (IOException error) {
            throw new ParquetCryptoRuntimeException("guest's answer has a malformed " + field, error);
        }
    }

    /** The guest holds no key for this file and use. */
    static final class KeyRefusedException extends ParquetCryptoRuntimeException {
        private static final long serialVersionUID = 1L;

        KeyRefusedException(String operation, String path, String reason) {
            super("guest refused to " + operation + " " + path + ": " + reason);
        }
    }
}
