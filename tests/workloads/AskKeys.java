import java.util.HexFormat;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import ppml.spark.GuestKeys;

/** Asks for the key of each path given as OPERATION PATH, as Spark would, and prints what came. */
public final class AskKeys {
    public static void main(String[] arguments) {
        GuestKeys keys = new GuestKeys();
        Configuration configuration = new Configuration(false);
        configuration.set("ppml.private", System.getProperty("user.dir"));
        for (int index = 0; index < arguments.length; index += 2) {
            Path path = new Path("file:" + arguments[index + 1]);
            try {
                if (arguments[index].equals("read")) {
                    FileDecryptionProperties found = keys.getFileDecryptionProperties(configuration, path);
                    print(found.getFooterKey(), found.getAADPrefix());
                } else {
                    FileEncryptionProperties found = keys.getFileEncryptionProperties(configuration, path, null);
                    print(found.getFooterKey(), found.getFileAAD());
                }
            } catch (RuntimeException error) {
                System.out.println(error.getMessage());
            }
        }
    }

    private static void print(byte[] key, byte[] aad) {
        System.out.println(HexFormat.of().formatHex(key) + " " + HexFormat.of().formatHex(aad));
    }
}
