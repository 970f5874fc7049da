package ppml.flink;

import java.util.List;
import java.util.Set;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.ProviderContext;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.format.EncodingFormat;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.sink.SinkV2Provider;
import org.apache.flink.table.connector.source.DataStreamScanProvider;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.connector.source.ScanTableSource;
import org.apache.flink.table.connector.source.abilities.SupportsWatermarkPushDown;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableSinkFactory;
import org.apache.flink.table.factories.DynamicTableSourceFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.factories.SerializationFormatFactory;
import org.apache.flink.table.types.DataType;

/** The connector {@code ppml-frames}: sealed streams as tables, read and written in Flink's JSON format. */
public final class StreamTables implements DynamicTableSourceFactory, DynamicTableSinkFactory {
    static final String CONNECTOR = "ppml-frames";
    static final ConfigOption<List<String>> SEGMENTS =
            ConfigOptions.key("segments").stringType().asList().noDefaultValue();
    static final ConfigOption<String> FOLDER = ConfigOptions.key("folder").stringType().noDefaultValue();

    @Override
    public String factoryIdentifier() {
        return CONNECTOR;
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(FactoryUtil.FORMAT);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of(SEGMENTS, FOLDER);
    }

    @Override
    public DynamicTableSource createDynamicTableSource(Context context) {
        FactoryUtil.TableFactoryHelper helper = FactoryUtil.createTableFactoryHelper(this, context);
        DecodingFormat<DeserializationSchema<RowData>> format =
                helper.discoverDecodingFormat(DeserializationFormatFactory.class, FactoryUtil.FORMAT);
        return new Read(helper.getOptions().get(SEGMENTS), format, context.getPhysicalRowDataType());
    }

    @Override
    public DynamicTableSink createDynamicTableSink(Context context) {
        FactoryUtil.TableFactoryHelper helper = FactoryUtil.createTableFactoryHelper(this, context);
        EncodingFormat<SerializationSchema<RowData>> format =
                helper.discoverEncodingFormat(SerializationFormatFactory.class, FactoryUtil.FORMAT);
        return new Written(helper.getOptions().get(FOLDER), format, context.getPhysicalRowDataType());
    }

    private static final class Read implements ScanTableSource, SupportsWatermarkPushDown {
        private final List<String> segments;
        private final DecodingFormat<DeserializationSchema<RowData>> format;
        private final DataType rows;
        private WatermarkStrategy<RowData> watermarks = WatermarkStrategy.noWatermarks();

        Read(List<String> segments, DecodingFormat<DeserializationSchema<RowData>> format, DataType rows) {
            this.segments = segments;
            this.format = format;
            this.rows = rows;
        }

        @Override
        public ChangelogMode getChangelogMode() {
            return ChangelogMode.insertOnly();
        }

        /** Pushed down, watermarks are made partition by partition and not over what a reader has mixed. */
        @Override
        public void applyWatermark(WatermarkStrategy<RowData> strategy) {
            watermarks = strategy;
        }

        @Override
        public ScanRuntimeProvider getScanRuntimeProvider(ScanContext context) {
            StreamSource source = new StreamSource(segments, format.createRuntimeDecoder(context, rows));
            WatermarkStrategy<RowData> strategy = watermarks;
            return new DataStreamScanProvider() {
                @Override
                public DataStream<RowData> produceDataStream(
                        ProviderContext provider, StreamExecutionEnvironment environment) {
                    return environment.fromSource(
                            source, strategy, CONNECTOR, context.createTypeInformation(rows));
                }

                @Override
                public boolean isBounded() {
                    return true;
                }
            };
        }

        @Override
        public DynamicTableSource copy() {
            Read copy = new Read(segments, format, rows);
            copy.watermarks = watermarks;
            return copy;
        }

        @Override
        public String asSummaryString() {
            return CONNECTOR;
        }
    }

    private static final class Written implements DynamicTableSink {
        private final String folder;
        private final EncodingFormat<SerializationSchema<RowData>> format;
        private final DataType rows;
        private boolean isChanging;

        Written(String folder, EncodingFormat<SerializationSchema<RowData>> format, DataType rows) {
            this.folder = folder;
            this.format = format;
            this.rows = rows;
        }

        @Override
        public ChangelogMode getChangelogMode(ChangelogMode requested) {
            isChanging = !requested.containsOnly(org.apache.flink.types.RowKind.INSERT);
            return isChanging ? ChangelogMode.all() : requested;
        }

        @Override
        public SinkRuntimeProvider getSinkRuntimeProvider(Context context) {
            return SinkV2Provider.of(
                    new StreamSink(folder, isChanging, format.createRuntimeEncoder(context, rows)));
        }

        @Override
        public DynamicTableSink copy() {
            Written copy = new Written(folder, format, rows);
            copy.isChanging = isChanging;
            return copy;
        }

        @Override
        public String asSummaryString() {
            return CONNECTOR;
        }
    }
}
