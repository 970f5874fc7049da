package ppml.spark;

import java.util.Collection;
import java.util.HashSet;
import java.util.Locale;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.sql.catalyst.analysis.NamedParameter;
import org.apache.spark.sql.catalyst.analysis.UnresolvedFunction;
import org.apache.spark.sql.catalyst.analysis.UnresolvedGenerator;
import org.apache.spark.sql.catalyst.analysis.UnresolvedRelation;
import org.apache.spark.sql.catalyst.analysis.UnresolvedTableValuedFunction;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.Literal;
import org.apache.spark.sql.catalyst.plans.logical.LocalRelation;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.plans.logical.SubqueryAlias;
import org.apache.spark.sql.catalyst.plans.logical.UnresolvedWith;
import org.apache.spark.sql.catalyst.plans.logical.View;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.execution.datasources.LogicalRelation;
import org.apache.spark.sql.types.DataType;
import scala.Option;
import scala.Product;
import scala.Tuple3;
import scala.collection.Iterable;
import scala.jdk.javaapi.CollectionConverters;

/**
 * Decides on a plan whether it is a query over the granted views and nothing else. Everything is refused that the
 * {@link AllowList} does not name: plan nodes, expressions, functions, and the objects they hold.
 *
 * <p>The walk follows the constructor arguments of each node, not its children: subqueries, definitions of WITH and
 * rows of VALUES hang there, and a field that a later Spark adds is an unknown class and so refused.
 */
final class Judge {
    private final AllowList allowed;
    private final Set<String> views = new HashSet<>();
    private final Set<String> parameters;
    private final Set<String> withNames = new HashSet<>();

    Judge(AllowList allowed, Collection<String> views, Set<String> parameters) {
        this.allowed = allowed;
        this.parameters = parameters;
        views.forEach(view -> this.views.add(fold(view)));
    }

    /** Refuses a parsed or analysed plan with the name, the reason and the place of the first thing not allowed. */
    void judge(LogicalPlan plan) throws Refusal {
        collectWithNames(plan);
        inspect(plan, plan);
    }

    private void inspect(Object value, TreeNode<?> holder) throws Refusal {
        if (isPlain(value)) {
            return;
        }
        if (value instanceof LogicalPlan plan) {
            inspectPlan(plan);
        } else if (value instanceof Expression expression) {
            inspectExpression(expression);
        } else if (value instanceof Iterable<?> values) {
            for (Object item : CollectionConverters.asJava(values)) {
                inspect(item, holder);
            }
        } else if (value instanceof Option<?> option) {
            if (option.isDefined()) {
                inspect(option.get(), holder);
            }
        } else {
            inspectField(value, holder);
        }
    }

    private static boolean isPlain(Object value) {
        return value == null
                || value instanceof String
                || value instanceof Number
                || value instanceof Boolean
                || value instanceof DataType;
    }

    private void inspectField(Object value, TreeNode<?> holder) throws Refusal {
        if (!allowed.hasField(value.getClass())) {
            throw refused("construct", AllowList.shortName(value.getClass()), holder);
        }
        if (value instanceof Product product) {
            inspectAll(product, holder);
        }
    }

    private void inspectPlan(LogicalPlan plan) throws Refusal {
        if (!allowed.hasPlan(plan.getClass())) {
            throw refusedPlan(plan);
        }
        if (plan instanceof UnresolvedRelation relation) {
            inspectRelation(relation);
        } else if (plan instanceof UnresolvedTableValuedFunction function) {
            requireFunction(
                    String.join(".", CollectionConverters.asJava(function.name())), true, function);
            inspect(function.functionArgs(), function);
        } else if (plan instanceof View view) {
            if (!view.isTempView()) {
                throw refused("view", view.desc().identifier().table(), view);
            }
            inspect(view.child(), view);
        } else if (!(plan instanceof LocalRelation || plan instanceof LogicalRelation)) { // These hold rows and files.
            inspectAll((Product) plan, plan);
        }
    }

    private void inspectRelation(UnresolvedRelation relation) throws Refusal {
        String name = String.join(".", CollectionConverters.asJava(relation.multipartIdentifier()));
        if (relation.multipartIdentifier().length() != 1) {
            throw new Refusal("sql_refused", name, "relation " + name + " has a prefix; only the granted tables are"
                    + " read, by their bare names").at(relation.origin());
        }
        if (!relation.options().isEmpty() || relation.isStreaming()) {
            throw new Refusal("sql_refused", name, "relation " + name + " has options or is a stream; neither is"
                    + " allowed").at(relation.origin());
        }
        if (!views.contains(fold(name)) && !withNames.contains(fold(name))) {
            throw new Refusal("unknown_table", name, "table " + name + " is not granted").at(relation.origin());
        }
    }

    private void inspectExpression(Expression expression) throws Refusal {
        if (expression instanceof Literal) {
            return;
        }
        if (expression instanceof UnresolvedFunction function) {
            if (function.isInternal()) {
                throw refused("function", function.prettyName(), function);
            }
            requireFunction(String.join(".", CollectionConverters.asJava(function.nameParts())), false, function);
        } else if (expression instanceof UnresolvedGenerator generator) {
            if (generator.name().database().isDefined()) {
                throw refused("function", generator.name().unquotedString(), generator);
            }
            requireFunction(generator.name().funcName(), false, generator);
            inspect(generator.children(), generator);
            return;
        } else if (expression instanceof NamedParameter parameter && !parameters.contains(parameter.name())) {
            throw new Refusal("unknown_parameter", parameter.name(), "parameter :" + parameter.name()
                    + " is not declared; declared are: " + new TreeSet<>(parameters)).at(parameter.origin());
        }
        if (!allowed.hasExpression(expression.getClass())) {
            throw refused("expression", expression.prettyName() + " (" + expression.getClass().getSimpleName() + ")",
                    expression);
        }
        inspectAll((Product) expression, expression);
    }

    private void inspectAll(Product product, TreeNode<?> holder) throws Refusal {
        for (int index = 0; index < product.productArity(); index++) {
            inspect(product.productElement(index), holder);
        }
    }

    private void requireFunction(String name, boolean table, TreeNode<?> holder) throws Refusal {
        if (!(table ? allowed.hasTableFunction(name) : allowed.hasFunction(name))) {
            throw refused(table ? "table function" : "function", name, holder);
        }
    }

    /** Names that WITH defines; used outside their scope they name nothing, for the catalog is empty. */
    private void collectWithNames(Object value) {
        if (value instanceof UnresolvedWith with) {
            for (Tuple3<String, SubqueryAlias, Option<Object>> definition :
                    CollectionConverters.asJava(with.cteRelations())) {
                withNames.add(fold(definition._1()));
            }
        }
        if (value instanceof TreeNode<?> && value instanceof Product product) {
            for (int index = 0; index < product.productArity(); index++) {
                collectWithNames(product.productElement(index));
            }
        } else if (value instanceof Iterable<?> values) {
            CollectionConverters.asJava(values).forEach(this::collectWithNames);
        } else if (value instanceof Option<?> option && option.isDefined()) {
            collectWithNames(option.get());
        } else if (value instanceof Tuple3<?, ?, ?> tuple) {
            collectWithNames(tuple._2());
        }
    }

    private static Refusal refusedPlan(LogicalPlan plan) {
        String name = plan.getClass().getSimpleName().replace("$", "");
        return new Refusal("sql_refused", name, "statement holds " + name + ", which is not allowed; one query"
                + " (SELECT, WITH, VALUES) over the granted tables is").at(plan.origin());
    }

    private static Refusal refused(String kind, String name, TreeNode<?> holder) {
        return new Refusal("sql_refused", name, kind + " " + name + " is not on the list of what a query may use")
                .at(holder.origin());
    }

    private static String fold(String name) {
        return name.toLowerCase(Locale.ROOT);
    }
}
