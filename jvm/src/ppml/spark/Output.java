package ppml.spark;

import java.io.IOException;
import java.util.UUID;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.TaskAttemptContext;
import org.apache.hadoop.mapreduce.TaskAttemptID;
import org.apache.hadoop.mapreduce.task.TaskAttemptContextImpl;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SaveMode;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.classic.SparkSession;
import org.apache.spark.sql.execution.datasources.OutputWriter;
import org.apache.spark.sql.execution.datasources.OutputWriterFactory;
import org.apache.spark.sql.execution.datasources.parquet.ParquetFileFormat;
import org.apache.spark.sql.types.StructType;
import scala.Tuple2;
import scala.collection.Iterator;
import scala.jdk.javaapi.CollectionConverters;

/** Writes a result into at most a fixed number of encrypted parts. The guest adds the empty ones. */
public final class Output {
    private Output() {}

    /**
     * A sorted result keeps its order, within and across parts; any other is spread evenly, after it was computed on
     * all cores. In a set the driver writes, for the leader alone has the keys of outputs; else the tasks do.
     */
    public static void write(Dataset<Row> result, String folder, int files) throws IOException {
        if (result.sparkSession().sparkContext().master().equals(SetClusterManager.MASTER)) {
            writeHere(result, folder, files);
            return;
        }
        boolean isSorted = !result.queryExecution().optimizedPlan().outputOrdering().isEmpty();
        Dataset<Row> parts = isSorted ? result.coalesce(files) : result.repartition(files);
        parts.write().mode(SaveMode.ErrorIfExists).parquet(folder);
    }

    /** Has all rows come to the driver, whose memory they take compressed, and writes them in their order. */
    private static void writeHere(Dataset<Row> result, String folder, int files) throws IOException {
        SparkSession session = (SparkSession) result.sparkSession();
        StructType schema = result.schema().asNullable();
        Job job = Job.getInstance(session.sessionState().newHadoopConf());
        OutputWriterFactory writers = new ParquetFileFormat()
                .prepareWrite(session, job, scala.collection.immutable.Map$.MODULE$.empty(), schema);
        TaskAttemptContext context = new TaskAttemptContextImpl(job.getConfiguration(), new TaskAttemptID());
        String ending = "-" + UUID.randomUUID() + "-c000" + writers.getFileExtension(context);
        Tuple2<Object, Iterator<InternalRow>> found =
                result.queryExecution().executedPlan().executeCollectIterator();
        long count = (Long) found._1();
        java.util.Iterator<InternalRow> rows = CollectionConverters.asJava(found._2());
        for (int part = 0; part < files; part++) {
            String path = new Path(folder, String.format("part-%05d", part) + ending).toString();
            OutputWriter writer = writers.newInstance(path, schema, context);
            try {
                for (long left = count * (part + 1) / files - count * part / files; left > 0; left--) {
                    writer.write(rows.next());
                }
            } finally {
                writer.close();
            }
        }
    }
}
