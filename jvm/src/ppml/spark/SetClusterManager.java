package ppml.spark;

import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.ExternalClusterManager;
import org.apache.spark.scheduler.SchedulerBackend;
import org.apache.spark.scheduler.TaskScheduler;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend;

/**
 * The cluster of a set of enclaves, as Spark sees it ({@code spark.master} = {@code spark-set}): nobody starts
 * executors. Each is started by the guest of a member, once the broker has given that member its lease, and comes by
 * itself; one that replaces a lost one likewise. Only who knows the set's key is heard.
 */
public final class SetClusterManager implements ExternalClusterManager {
    static final String MASTER = "spark-set";

    @Override
    public boolean canCreate(String master) {
        return master.equals(MASTER);
    }

    @Override
    public TaskScheduler createTaskScheduler(SparkContext context, String master) {
        return new TaskSchedulerImpl(context);
    }

    @Override
    public SchedulerBackend createSchedulerBackend(SparkContext context, String master, TaskScheduler scheduler) {
        return new Backend((TaskSchedulerImpl) scheduler, context);
    }

    @Override
    public void initialize(TaskScheduler scheduler, SchedulerBackend backend) {
        ((TaskSchedulerImpl) scheduler).initialize(backend);
    }

    /** Tells the guest where the driver listens; the guest tells the other members, in a sealed message. */
    private static final class Backend extends CoarseGrainedSchedulerBackend {
        Backend(TaskSchedulerImpl scheduler, SparkContext context) {
            super(scheduler, context.env().rpcEnv());
        }

        @Override
        public void start() {
            super.start();
            String address = conf().get("spark.driver.host") + ":" + conf().get("spark.driver.port");
            try {
                Guest.ask(Guest.JSON.createObjectNode()
                        .put("op", "driver")
                        .put("url", "spark://" + ENDPOINT_NAME() + "@" + address)
                        .put("app_id", applicationId()));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
