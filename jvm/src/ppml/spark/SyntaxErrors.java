package ppml.spark;

import java.util.List;
import java.util.stream.Collectors;
import org.antlr.v4.runtime.BaseErrorListener;
import org.antlr.v4.runtime.CharStreams;
import org.antlr.v4.runtime.CommonTokenStream;
import org.antlr.v4.runtime.Parser;
import org.antlr.v4.runtime.RecognitionException;
import org.antlr.v4.runtime.Recognizer;
import org.antlr.v4.runtime.Token;
import org.antlr.v4.runtime.misc.IntervalSet;
import org.antlr.v4.runtime.misc.ParseCancellationException;
import org.apache.spark.sql.catalyst.parser.ParseException;
import org.apache.spark.sql.catalyst.parser.SqlBaseLexer;
import org.apache.spark.sql.catalyst.parser.SqlBaseParser;
import org.apache.spark.sql.catalyst.parser.UpperCaseCharStream;
import scala.Option;

/**
 * Says where a statement stops being SQL and what could stand there. Spark's own message leaves out what was expected,
 * so its grammar is run once more.
 */
final class SyntaxErrors {
    private static final int LISTED = 12;

    private SyntaxErrors() {}

    static Refusal describe(String text, ParseException error) {
        First first = new First();
        SqlBaseLexer lexer = new SqlBaseLexer(new UpperCaseCharStream(CharStreams.fromString(text)));
        lexer.removeErrorListeners();
        SqlBaseParser parser = new SqlBaseParser(new CommonTokenStream(lexer));
        parser.removeErrorListeners();
        parser.addErrorListener(first);
        try {
            parser.compoundOrSingleStatement();
        } catch (ParseCancellationException stop) {
            return new Refusal("sql_syntax", first.token, first.message).at(first.line, first.column + 1);
        }
        return fromSpark(error);
    }

    /** An error that Spark finds after its grammar: a duplicate clause, a bad literal. */
    private static Refusal fromSpark(ParseException error) {
        Option<Object> line = error.line();
        Option<Object> position = error.startPosition();
        Refusal refusal = new Refusal("sql_syntax", "", Messages.firstLine(error));
        return line.isDefined() && position.isDefined()
                ? refusal.at((Integer) line.get(), (Integer) position.get() + 1)
                : refusal;
    }

    private static final class First extends BaseErrorListener {
        private String token;
        private String message;
        private int line;
        private int column;

        @Override
        public void syntaxError(Recognizer<?, ?> recognizer, Object symbol, int errorLine, int errorColumn, String text,
                RecognitionException error) {
            Token offending = (Token) symbol;
            token = offending.getType() == Token.EOF ? "end of the statement" : offending.getText();
            line = errorLine;
            column = errorColumn;
            IntervalSet expected =
                    error == null ? ((Parser) recognizer).getExpectedTokens() : error.getExpectedTokens();
            message = "syntax error at " + quoted(offending) + expectation(recognizer, expected);
            throw new ParseCancellationException();
        }

        private String quoted(Token offending) {
            return offending.getType() == Token.EOF ? token : "'" + token + "'";
        }

        /** A name may stand nearly anywhere, and most keywords are names: such a set is told as "a name". */
        private static String expectation(Recognizer<?, ?> recognizer, IntervalSet expected) {
            if (expected == null || expected.isNil()) {
                return "";
            }
            boolean isName = expected.contains(SqlBaseParser.IDENTIFIER);
            List<String> tokens = expected.toList().stream()
                    .filter(type -> !isName || !Character.isLetter(display(recognizer, type).charAt(0)))
                    .map(type -> display(recognizer, type))
                    .collect(Collectors.toList());
            if (isName) {
                tokens.add(0, "a name or keyword");
            }
            String more = tokens.size() > LISTED ? ", ..." : "";
            return "; expected " + String.join(", ", tokens.subList(0, Math.min(LISTED, tokens.size()))) + more;
        }

        private static String display(Recognizer<?, ?> recognizer, int type) {
            if (type == Token.EOF) {
                return "end of the statement";
            }
            String name = recognizer.getVocabulary().getDisplayName(type);
            return name.startsWith("'") ? name.substring(1, name.length() - 1) : name;
        }
    }
}
