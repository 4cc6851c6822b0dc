//! A template, compiled once.

use std::collections::BTreeMap;

use minijinja::machinery::{self, CodeGenerator, Instructions};
use minijinja::{AutoEscape, Environment, Error, Value};
use self_cell::self_cell;

use super::rewrite::Rewrite;

/// The name of every template, for the engine.
const NAME: &str = "template";

self_cell!(
    struct Compiled {
        owner: String,
        #[covariant]
        dependent: Instructions,
    }
);

/// What a template's text has become.
pub struct Program(Compiled);

impl Program {
    /// Compiles one expression.
    ///
    /// # Errors
    /// When it is none.
    pub fn expression(text: &str) -> Result<Self, Error> {
        let compiled = Compiled::try_new(text.to_owned(), |text| {
            let parsed = machinery::parse_expr(text)?;
            let mut code = CodeGenerator::new("<expression>", text);
            let rewrite = Rewrite::of(text);
            code.compile_expr(&rewrite.expression(&parsed));
            rewrite.finish()?;
            Ok::<_, Error>(code.finish().0)
        });
        compiled.map(Self)
    }

    /// Compiles a text with expressions in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn template(text: &str) -> Result<Self, Error> {
        // The parser takes the last line break away, which may be part of what is sent or signed.
        Self::line(&if text.ends_with('\n') { format!("{text}\n") } else { text.to_owned() })
    }

    /// The same of what is one line: without the line break at its end.
    ///
    /// # Errors
    /// As [`Program::template`].
    pub fn line(text: &str) -> Result<Self, Error> {
        let compiled = Compiled::try_new(text.to_owned(), |text| {
            let parsed = machinery::parse(text, NAME, minijinja::syntax::SyntaxConfig::default())?;
            let mut code = CodeGenerator::new(NAME, text);
            let rewrite = Rewrite::of(text);
            code.compile_stmt(&rewrite.statement(&parsed));
            rewrite.finish()?;
            Ok::<_, Error>(code.finish().0)
        });
        compiled.map(Self)
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.borrow_owner()
    }

    /// The expression's value.
    ///
    /// # Errors
    /// When it reads something that is not there, or cannot be computed.
    pub fn value(&self, environment: &Environment<'static>, context: Value) -> Result<Value, Error> {
        let mut nowhere = String::new();
        Ok(self.run(environment, context, &mut nowhere)?.unwrap_or_default())
    }

    /// The template's text.
    ///
    /// # Errors
    /// As [`Program::value`].
    pub fn render(&self, environment: &Environment<'static>, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        self.run(environment, context, &mut text)?;
        Ok(text)
    }

    fn run(
        &self,
        environment: &Environment<'static>,
        context: Value,
        out: &mut String,
    ) -> Result<Option<Value>, Error> {
        let mut output = machinery::make_string_output(out);
        let blocks = BTreeMap::new();
        let ran = machinery::eval(
            environment,
            self.0.borrow_dependent(),
            context,
            &blocks,
            &mut output,
            AutoEscape::None,
        );
        Ok(ran?.0)
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&self.text()).finish()
    }
}
