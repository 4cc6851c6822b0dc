//! Files whose form is a program's own: what stands around the table, and how a value is written that is none. With the most lenient dialect
//! each is read exactly, where that can be; otherwise, and by a strict pipeline, it is refused with the sentence that its fix needs.

use penstock_domain::csv::{Charset, Delimiter, Dialect, RowError, Schema};

use crate::{lenient, read, schema};

/// What becomes of a file.
enum Fate {
    /// Its rows, with their lines.
    Read(&'static [(u64, [&'static str; 3])]),
    /// Its first error, and what its sentence says.
    Refused(&'static str, &'static str),
}

use Fate::{Read, Refused};

struct Shape {
    /// The program, and the rule that it follows.
    name: &'static str,
    file: &'static str,
    lenient: Fate,
    strict: Fate,
}

const TWO: &[(u64, [&str; 3])] = &[(2, ["a@b.co", "Ann", "1"]), (3, ["c@d.co", "Bob", "2"])];

const SHAPES: &[Shape] = &[
    Shape {
        name: "pandas.to_csv: the index is a column without a name",
        file: ",email,name,amount\n0,a@b.co,Ann,1\n1,c@d.co,Bob,2\n",
        lenient: Read(TWO),
        strict: Refused("unknown_column", "index=False"),
    },
    Shape {
        name: "R, write.csv: so are the row names",
        file: "\"\",\"email\",\"name\",\"amount\"\n\"1\",\"a@b.co\",\"Ann\",1\n\"2\",\"c@d.co\",\"Bob\",2\n",
        lenient: Read(TWO),
        strict: Refused("unknown_column", "row.names = FALSE"),
    },
    Shape {
        name: "R, write.table(row.names = TRUE): the header has no name for them",
        file: "\"email\",\"name\",\"amount\"\n\"1\",\"a@b.co\",\"Ann\",1\n\"2\",\"c@d.co\",\"Bob\",2\n",
        lenient: Refused("field_count", "row.names = FALSE"),
        strict: Refused("field_count", "row.names = FALSE"),
    },
    Shape {
        name: "R, write.table, blanks between columns",
        file: "\"email\" \"name\" \"amount\"\n\"1\" \"a@b.co\" \"Ann\" 1\n",
        lenient: Refused("text_after_quote", "separated by blanks"),
        strict: Refused("text_after_quote", "separated by blanks"),
    },
    Shape {
        name: "PowerShell 5, Export-Csv: the type stands above the header",
        file: "#TYPE Selected.System.Management.Automation.PSCustomObject\r\n\"email\",\"name\",\"amount\"\r\n\"a@b.co\",\"Ann\",\"1\"\r\n",
        lenient: Refused("unknown_column", "-NoTypeInformation"),
        strict: Refused("unknown_column", "-NoTypeInformation"),
    },
    Shape {
        name: "MySQL, SELECT … INTO OUTFILE: tabs, no header",
        file: "a@b.co\tAnn\t1\nc@d.co\tBob\t\\N\n",
        lenient: Refused("missing_column", "write it as the first line"),
        strict: Refused("unknown_column", "write it as the first line"),
    },
    Shape {
        name: "the same with a header by UNION: no value is `\\N`, which is a text to whoever does not know",
        file: "email\tname\tamount\na@b.co\tAnn\t1\nc@d.co\tBob\t\\N\n",
        lenient: Read(&[(2, ["a@b.co", "Ann", "1"]), (3, ["c@d.co", "Bob", "\\N"])]),
        strict: Refused("unknown_column", "separated by tabs"),
    },
    Shape {
        name: "the same: a line end in a value is a backslash and a line end",
        file: "email\tname\tamount\na@b.co\tAnn\\\nSmith\t1\n",
        lenient: Refused("field_count", "ESCAPED BY"),
        strict: Refused("unknown_column", "separated by tabs"),
    },
    Shape {
        name: "the same: a quote in quotes has a backslash before it",
        file: "email,name,amount\n\"a@b.co\",\"says \\\"no\\\"\",\"1\"\n",
        lenient: Refused("text_after_quote", "write a quote inside a quoted field twice"),
        strict: Refused("text_after_quote", "write a quote inside a quoted field twice"),
    },
    Shape {
        name: "SAP, list: a frame of bars",
        file: "|email|name|amount|\r\n|a@b.co|Ann|1|\r\n|c@d.co|Bob|2|\r\n",
        lenient: Read(TWO),
        strict: Refused("unknown_column", "separated by vertical bars"),
    },
    Shape {
        name: "SAP, list with rulers",
        file: "-------------------\r\n|email |name|amount|\r\n-------------------\r\n|a@b.co|Ann |     1|\r\n-------------------\r\n",
        lenient: Refused("missing_column", "remove them"),
        strict: Refused("unknown_column", "remove them"),
    },
    Shape {
        name: "SAP, list with a ruler below the header",
        file: "|email |name|amount|\r\n|------------------|\r\n|a@b.co|Ann |     1|\r\n",
        lenient: Refused("field_count", "only a line is drawn here; remove it"),
        strict: Refused("unknown_column", "separated by vertical bars"),
    },
    Shape {
        name: "psql: columns in a frame",
        file: " email  | name | amount \n--------+------+--------\n a@b.co | Ann  | 1\n(1 row)\n",
        lenient: Refused("field_count", "only a line is drawn here; remove it"),
        strict: Refused("unknown_column", "separated by vertical bars"),
    },
];

fn check(shape: &Shape, found: Result<Vec<(u64, [String; 3])>, Vec<RowError>>, fate: &Fate) {
    let name = shape.name;
    match (found, fate) {
        (Ok(rows), Read(wanted)) => {
            let wanted: Vec<_> = wanted.iter().map(|(line, row)| (*line, row.map(str::to_owned))).collect();
            assert_eq!(rows, wanted, "{name}");
        }
        (Err(errors), Refused(code, sentence)) => {
            assert_eq!(errors[0].code, *code, "{name}: {errors:?}");
            assert!(errors[0].message.contains(sentence), "{name}: {errors:?}");
        }
        (found, _) => panic!("{name}: {found:?}"),
    }
}

#[test]
fn a_programs_own_form_is_read_exactly_or_named() {
    for shape in SHAPES {
        for pieces in [1, 5, 1000] {
            let file = shape.file.as_bytes();
            check(shape, read(schema(lenient(Charset::Auto)), file, pieces), &shape.lenient);
            check(shape, read(schema(Dialect::default()), file, pieces), &shape.strict);
        }
    }
}

/// A frame of bars, and values that are filled with blanks, where the columns are declared so.
#[test]
fn a_list_in_a_frame_is_read_where_its_blanks_are_declared() {
    let mut schema: Schema = schema(lenient(Charset::Auto));
    for column in &mut schema.columns {
        column.cleaning.trim = true;
    }
    let file = "|email |name|amount|\r\n|a@b.co|Ann |     1|\r\n";
    let wanted = Ok(vec![(2, ["a@b.co", "Ann", "1"].map(str::to_owned))]);
    assert_eq!(read(schema.clone(), file.as_bytes(), 3), wanted);
    schema.dialect.delimiter = Delimiter::Is(b'|');
    assert_eq!(read(schema, file.as_bytes(), 3), wanted);
}
