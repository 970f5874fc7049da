package ppml.flink;

import java.util.Set;
import org.apache.calcite.sql.SqlBasicCall;
import org.apache.calcite.sql.SqlCall;
import org.apache.calcite.sql.SqlFunction;
import org.apache.calcite.sql.SqlIdentifier;
import org.apache.calcite.sql.SqlKind;
import org.apache.calcite.sql.SqlNode;
import org.apache.calcite.sql.SqlNodeList;
import org.apache.calcite.sql.SqlSelect;
import org.apache.calcite.sql.validate.SqlValidator;

/**
 * Decides on a parsed statement whether it is one query over granted tables and nothing else. Everything is refused
 * that the {@link AllowList} does not name: classes of nodes, functions and operators. Which tables there are is the
 * catalog's word, and it holds the granted ones alone.
 */
final class Judge {
    private static final Set<SqlKind> QUERIES = Set.of(
            SqlKind.SELECT, SqlKind.WITH, SqlKind.ORDER_BY, SqlKind.VALUES, SqlKind.UNION, SqlKind.INTERSECT,
            SqlKind.EXCEPT);

    private final AllowList allowed;
    private final SqlValidator validator;

    /** @param validator tells which bare names are functions */
    Judge(AllowList allowed, SqlValidator validator) {
        this.allowed = allowed;
        this.validator = validator;
    }

    /** Refuses a statement with the name, the reason and the place of the first thing that is not allowed. */
    void judge(SqlNode statement) throws Refusal {
        if (!QUERIES.contains(statement.getKind())) {
            String name = statement.getClass().getSimpleName();
            throw new Refusal("sql_refused", name, "statement is " + name + ", which is not allowed; one query (SELECT,"
                    + " WITH, VALUES) over the granted tables is").at(statement.getParserPosition());
        }
        inspect(statement);
    }

    private void inspect(SqlNode node) throws Refusal {
        if (node == null) {
            return;
        }
        if (!allowed.hasNode(node.getClass())) {
            throw refused("construct", node.getClass().getSimpleName(), node);
        }
        if (node instanceof SqlNodeList list) {
            for (SqlNode item : list) {
                inspect(item);
            }
        } else if (node instanceof SqlCall call) {
            inspectCall(call);
        } else if (node instanceof SqlIdentifier name) {
            SqlCall call = validator.makeNullaryCall(name); // CURRENT_TIMESTAMP is a call without parentheses.
            if (call != null && !allowed.hasFunction(call.getOperator().getName())) {
                throw refused("function", call.getOperator().getName(), name);
            }
        }
    }

    private void inspectCall(SqlCall call) throws Refusal {
        if (call instanceof SqlSelect select && select.hasHints()) {
            throw refused("construct", "hint", select);
        }
        if (call instanceof SqlBasicCall) {
            if (call.getOperator() instanceof SqlFunction function) {
                SqlIdentifier name = function.getNameAsId();
                if (name != null && !name.isSimple()) {
                    throw refused("function", name.toString(), call);
                }
            }
            if (!allowed.hasFunction(call.getOperator().getName())) {
                throw refused(
                        call.getOperator() instanceof SqlFunction ? "function" : "operator",
                        call.getOperator().getName(), call);
            }
        }
        for (SqlNode operand : call.getOperandList()) {
            inspect(operand);
        }
    }

    private static Refusal refused(String kind, String name, SqlNode node) {
        return new Refusal("sql_refused", name, kind + " " + name + " is not on the list of what a query may use")
                .at(node.getParserPosition());
    }
}
