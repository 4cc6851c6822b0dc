//! Whether a batch that was begun under one definition can go on under another.

use super::model::Pipeline;

/// A step of which rows of the batch keep something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptStep {
    /// The step's place in the definition that it ran under, from 0.
    pub step: u16,
    /// Whether a row has finished it; otherwise only its answer is kept, and is read again.
    pub finished: bool,
}

impl Pipeline {
    /// Whether what rows keep of steps under `earlier` fits this definition: finished steps are not called again, so that
    /// they must be at the same place, with no output that the rows lack.
    ///
    /// # Errors
    /// A sentence that names the first step that does not fit.
    pub fn can_follow(&self, earlier: &Self, kept: &[KeptStep]) -> Result<(), String> {
        for one in kept {
            let at = usize::from(one.step);
            let Some(before) = earlier.steps.get(at) else { continue };
            let now = self.steps.get(at);
            let Some(now) = now.filter(|now| now.name == before.name) else {
                let now = now.map_or("missing".to_owned(), |now| format!("`{}`", now.name));
                return Err(format!(
                    "rows have called step {} (`{}`), which is {now} in today's definition",
                    at + 1,
                    before.name
                ));
            };
            let known = |name: &String| before.output.iter().any(|(known, _)| known == name);
            let lacking = now.output.iter().map(|(name, _)| name).find(|name| !known(name));
            if let Some(name) = lacking.filter(|_| one.finished) {
                return Err(format!(
                    "rows have finished step `{}` and do not have its new output `{name}`",
                    now.name
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps and their outputs.
    fn pipeline(steps: &[(&str, &str)]) -> Pipeline {
        let mut text = "name: p\ncsv: { columns: [ { name: a } ] }\ndependencies: { d: { base_url: \"http://d.example\" } }\nsteps:\n".to_owned();
        for (name, output) in steps {
            text += &format!(
                "  - {{ name: {name}, dependency: d, request: {{ method: GET, path: /a }}, output: {{ {output} }} }}\n"
            );
        }
        Pipeline::load("p.yaml", &text, &|_| None).unwrap()
    }

    #[test]
    fn finished_steps_have_to_stay_as_they_are() {
        let earlier = pipeline(&[("a", "x: \"1\", y: \"1\""), ("b", "z: \"1\"")]);
        let finished = KeptStep { step: 0, finished: true };
        let answered = KeptStep { step: 1, finished: false };
        let follows = |steps: &[(&str, &str)], kept: &[KeptStep]| pipeline(steps).can_follow(&earlier, kept);
        for (steps, kept) in [
            (&[("a", "x: \"2\""), ("b", "z: \"2\", w: \"1\"")][..], &[finished, answered][..]),
            (&[("a", "x: \"1\", y: \"1\""), ("new", ""), ("b", "")], &[finished]),
            (&[("other", "")], &[]),
        ] {
            assert_eq!(follows(steps, kept), Ok(()), "{steps:?}");
        }
        for (steps, kept, wanted) in [
            (
                &[("a", "x: \"1\", new: \"1\""), ("b", "")][..],
                finished,
                "rows have finished step `a` and do not have its new output `new`",
            ),
            (&[("b", "")], finished, "rows have called step 1 (`a`), which is `b` in today's definition"),
            (&[("a", "")], answered, "rows have called step 2 (`b`), which is missing in today's definition"),
            (
                &[("a", ""), ("c", "")],
                answered,
                "rows have called step 2 (`b`), which is `c` in today's definition",
            ),
        ] {
            assert_eq!(follows(steps, &[kept]), Err(wanted.to_owned()), "{steps:?}");
        }
    }
}
