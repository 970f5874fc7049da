package ppml.flink;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channels;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;

/**
 * A connection to the guest that started this JVM: one JSON object a line, over the Unix socket {@code guest.sock}.
 * The socket lies in the private directory, which is also the working directory: a relative name keeps its address
 * below the 108 bytes that the kernel allows.
 */
final class Guest implements AutoCloseable {
    static final ObjectMapper JSON = new ObjectMapper();
    private static final Path SOCKET = Path.of("guest.sock");

    private final SocketChannel channel;
    private final BufferedReader reader;
    private final OutputStream writer;

    private Guest(SocketChannel channel) {
        this.channel = channel;
        this.reader = new BufferedReader(
                new InputStreamReader(Channels.newInputStream(channel), StandardCharsets.UTF_8));
        this.writer = Channels.newOutputStream(channel);
    }

    static Guest connect() throws IOException {
        return new Guest(SocketChannel.open(UnixDomainSocketAddress.of(SOCKET)));
    }

    /** Sends one message on a connection of its own and returns the answer. */
    static JsonNode ask(JsonNode message) throws IOException {
        try (Guest guest = connect()) {
            guest.send(message);
            JsonNode answer = guest.receive();
            if (answer == null) {
                throw new IOException("guest closed the connection without an answer");
            }
            return answer;
        }
    }

    void send(JsonNode message) throws IOException {
        writer.write((JSON.writeValueAsString(message) + "\n").getBytes(StandardCharsets.UTF_8));
        writer.flush();
    }

    /** The next message, or null when the guest has closed the connection. */
    JsonNode receive() throws IOException {
        String line = reader.readLine();
        return line == null ? null : JSON.readTree(line);
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }
}
