package ppml.flink;

import org.apache.calcite.sql.parser.SqlParserPos;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;

/** Why a statement is not run, in full: no secret exists yet when one is thrown. */
final class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    private final transient ObjectNode answer = Guest.JSON.createObjectNode();

    /**
     * @param code {@code sql_syntax}, {@code sql_refused}, {@code unknown_table}, {@code unknown_column},
     *     {@code unknown_parameter} or {@code sql_invalid}
     * @param name the construct, table, column or parameter
     */
    Refusal(String code, String name, String message) {
        super(message);
        answer.put("code", code).put("name", name).put("message", message);
    }

    /** Adds the place in the text: lines and columns count from 1. */
    Refusal at(SqlParserPos position) {
        return position == null || position.getLineNum() == 0
                ? this
                : at(position.getLineNum(), position.getColumnNum());
    }

    Refusal at(int line, int column) {
        answer.put("line", line).put("column", column);
        return this;
    }

    ObjectNode answer() {
        return Guest.JSON.createObjectNode().set("error", answer);
    }
}
