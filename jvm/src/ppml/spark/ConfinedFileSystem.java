package ppml.spark;

import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FilterFileSystem;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.security.AccessControlException;

/**
 * The only file system of a job ({@code fs.file.impl}): the {@link PrivateFolder}. The sealed inputs are links that the
 * guest put into its folder {@code inputs}: they are followed there, and nowhere else, and never written. No checksum
 * files: the encrypted files carry their own tags.
 */
public final class ConfinedFileSystem extends LocalFileSystem {

    public ConfinedFileSystem() {
        super(new Raw());
        setWriteChecksum(false);
        setVerifyChecksum(false);
    }

    /** Takes the place of every other file system ({@code fs.hdfs.impl}, {@code fs.http.impl}, ...). */
    public static final class Refused extends FilterFileSystem {
        @Override
        public void initialize(URI name, Configuration configuration) throws IOException {
            throw new AccessControlException("file system " + name.getScheme() + " is refused in an enclave");
        }
    }

    private static final class Raw extends RawLocalFileSystem {
        private PrivateFolder folder;
        private java.nio.file.Path home;
        private java.nio.file.Path inputs;

        @Override
        public void initialize(URI name, Configuration configuration) throws IOException {
            folder = new PrivateFolder(configuration);
            home = folder.own().toRealPath();
            inputs = home.resolve("inputs");
            super.initialize(name, configuration);
        }

        /** Every operation of the base class passes here. */
        @Override
        public File pathToFile(Path path) {
            java.nio.file.Path normal = folder.here(super.pathToFile(path).toPath());
            if (!normal.startsWith(inputs) && !real(normal).startsWith(home)) {
                throw refused(path, "outside the private directory");
            }
            return normal.toFile();
        }

        @Override
        protected OutputStream createOutputStreamWithMode(Path path, boolean append, FsPermission permission)
                throws IOException {
            requireWritable(path);
            return super.createOutputStreamWithMode(path, append, permission);
        }

        @Override
        public boolean rename(Path from, Path to) throws IOException {
            requireWritable(from);
            requireWritable(to);
            return super.rename(from, to);
        }

        @Override
        public boolean delete(Path path, boolean recursive) throws IOException {
            requireWritable(path);
            return super.delete(path, recursive);
        }

        @Override
        public boolean truncate(Path path, long length) throws IOException {
            requireWritable(path);
            return super.truncate(path, length);
        }

        private void requireWritable(Path path) {
            if (pathToFile(path).toPath().startsWith(inputs)) {
                throw refused(path, "an input");
            }
        }

        /** The real path of a file that may not exist yet: links in its existing part are followed. */
        private static java.nio.file.Path real(java.nio.file.Path path) {
            java.nio.file.Path existing = path;
            while (!existing.toFile().exists() && existing.getParent() != null) {
                existing = existing.getParent();
            }
            try {
                return existing.toRealPath().resolve(existing.relativize(path));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private static UncheckedIOException refused(Path path, String why) {
            return new UncheckedIOException(
                    new AccessControlException("path " + path + " is refused in an enclave: " + why));
        }
    }
}
