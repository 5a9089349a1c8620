//! The smallest model: a greeting.

use maquette::prelude::*;

/// Whom to greet.
#[derive(Input)]
struct Person {
    /// A name.
    #[input(default = "world", max_length = 100)]
    name: String,
}

struct Hello;

impl Model for Hello {
    type Input = Person;
    type Output = String;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Hello)
    }

    fn predict(&self, person: Person) -> Result<String> {
        Ok(format!("Hello, {}!", person.name))
    }
}

maquette::export!(Hello);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_greets() {
        let greeting = Hello.predict(Person { name: "you".into() });
        assert_eq!(greeting, Ok("Hello, you!".to_owned()));
    }
}
