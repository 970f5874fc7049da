package ppml.spark;

import java.nio.file.Path;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.security.AccessControlException;

/**
 * The private directory of this Java machine, in which it was started. Paths come from the driver, in whose own private
 * directory ({@code ppml.private}) they begin; an executor in another member of a set has the same files in its own.
 */
final class PrivateFolder {
    private final Path driver;
    private final Path own;

    PrivateFolder(Configuration settings) throws AccessControlException {
        String folder = settings.get("ppml.private");
        if (folder == null) {
            throw new AccessControlException("ppml.private is not set");
        }
        driver = Path.of(folder).normalize();
        own = Path.of("").toAbsolutePath().normalize();
    }

    Path own() {
        return own;
    }

    /** The file here that the driver calls so; any other path stays as it is. */
    Path here(Path path) {
        Path normal = path.toAbsolutePath().normalize();
        return normal.startsWith(driver) ? own.resolve(driver.relativize(normal)) : normal;
    }
}
