// The router's work with Kafka Streams: Processor API, a persistent store with its changelog.

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class Router implements Processor<byte[], byte[], byte[], byte[]> {
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<Bytes, byte[]> store;
    private MessageDigest digest;

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        store = context.getStateStore("dedup");
        try {
            digest = MessageDigest.getInstance("MD5");
        } catch (java.security.NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        byte[] version = null, id = null, source = null, type = null, time = null;
        for (Header header : record.headers()) {
            switch (header.key()) {
                case "ce_specversion" -> version = header.value();
                case "ce_id" -> id = header.value();
                case "ce_source" -> source = header.value();
                case "ce_type" -> type = header.value();
                case "ce_time" -> time = header.value();
                default -> { }
            }
        }
        if (version == null || id == null || source == null || type == null || time == null) {
            throw new IllegalArgumentException("not a CloudEvent");
        }
        byte[] key = record.key() == null ? new byte[0] : record.key();
        digest.update(ByteBuffer.allocate(8).putInt(key.length).putInt(source.length).array());
        digest.update(key);
        digest.update(source);
        digest.update(id);
        Bytes name = Bytes.wrap(digest.digest());
        long position = context.recordMetadata().get().offset();
        byte[] row = store.get(name);
        if (row != null && ByteBuffer.wrap(row).getLong(1) != position) {
            return;
        }
        store.put(name, ByteBuffer.allocate(17).put((byte) 1).putLong(position).putLong(0).array());
        Instant written = Instant.parse(new String(time, StandardCharsets.US_ASCII));
        long micros = written.getEpochSecond() * 1_000_000 + written.getNano() / 1_000;
        Headers headers = new RecordHeaders();
        headers.add("walstream-version", ascii("1"));
        headers.add("walstream-time", ascii(Long.toString(micros)));
        headers.add("walstream-position", ascii(Long.toString(position)));
        headers.add("walstream-timestamp", ascii(Long.toString(record.timestamp())));
        for (Header header : record.headers()) {
            headers.add(header);
        }
        context.forward(record.withHeaders(headers));
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    /** Arguments: brokers, source, output, application, compression, folder, guarantee, threads. */
    public static void main(String[] args) {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("application.id", args[3]);
        config.put("state.dir", args[5]);
        config.put("processing.guarantee", args[6]);
        config.put("num.stream.threads", args[7]);
        config.put("replication.factor", "1");
        config.put("producer.compression.type", args[4]);
        // As somebody would who wants throughput; each was tried, and is faster or no slower than the default.
        if (args[6].equals("exactly_once_v2")) {
            config.put("commit.interval.ms", "1000");
        }
        config.put("producer.batch.size", "262144");
        config.put("producer.buffer.memory", "134217728");
        config.put("producer.acks", "all");
        config.put("consumer.max.partition.fetch.bytes", "4000000");
        config.put("consumer.max.poll.records", "10000");
        config.put("consumer.auto.offset.reset", "earliest");
        Topology topology = new Topology();
        var bytes = Serdes.ByteArray();
        topology.addSource("in", bytes.deserializer(), bytes.deserializer(), args[1]);
        topology.addProcessor("router", Router::new, "in");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("dedup"), Serdes.Bytes(), bytes)
                .withLoggingEnabled(Map.of()),
            "router");
        topology.addSink("out", args[2], bytes.serializer(), bytes.serializer(), "router");
        KafkaStreams streams = new KafkaStreams(topology, config);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
