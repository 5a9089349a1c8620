//! The op table's pure half: names, documentation, attributes, shape and dtype rules, costs, program descriptions.
