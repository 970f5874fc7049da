package ppml.spark;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SaveMode;

/** Writes a result into at most a fixed number of encrypted parts. The guest adds the empty ones. */
public final class Output {
    private Output() {}

    /**
     * A sorted result keeps its order, within and across parts; any other is spread evenly, after it was computed on
     * all cores.
     */
    public static void write(Dataset<Row> result, String folder, int files) {
        boolean isSorted = !result.queryExecution().optimizedPlan().outputOrdering().isEmpty();
        Dataset<Row> parts = isSorted ? result.coalesce(files) : result.repartition(files);
        parts.write().mode(SaveMode.ErrorIfExists).parquet(folder);
    }
}
