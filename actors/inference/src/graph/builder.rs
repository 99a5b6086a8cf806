//! Writes ONNX graphs node by node.

use prost::Message;

use super::onnx::{
    Attribute, AttributeKind, Dimension, Element, Extent, Graph, Model, Node, OperatorSet, Shape,
    TensorType, Type, ValueInfo,
};

/// Operators of ONNX Runtime that are not in the ONNX standard.
pub const MICROSOFT: &str = "com.microsoft";
/// Our own operators.
pub const BLYAN: &str = "blyan";

const IR_VERSION: i64 = 10;
const OPSETS: [(&str, i64); 3] = [("", 21), (MICROSOFT, 1), (BLYAN, 1)];

/// One dimension of a graph's input or output.
#[derive(Clone, Copy)]
pub enum Dim<'a> {
    /// The same in every run.
    Is(usize),
    /// May differ from run to run; equal names are equal sizes.
    Any(&'a str),
}

#[derive(Default)]
pub struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    pub fn new(name: &str) -> Self {
        Self {
            graph: Graph {
                name: name.to_owned(),
                ..Graph::default()
            },
        }
    }

    /// Declares an input and returns its name.
    pub fn input(&mut self, name: impl Into<String>, element: Element, dims: &[Dim<'_>]) -> String {
        let name = name.into();
        self.graph.input.push(value_info(&name, element, dims));
        name
    }

    /// Declares that the value `name` is an output.
    pub fn output(&mut self, name: &str, element: Element, dims: &[Dim<'_>]) {
        self.graph.output.push(value_info(name, element, dims));
    }

    /// Appends a node; nodes must come in an order in which each can be computed. An empty input is an optional one
    /// left out.
    pub fn node(
        &mut self,
        (domain, op): (&str, &str),
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Attribute],
    ) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.iter().map(|name| (*name).to_owned()).collect(),
            name: outputs
                .first()
                .map(|first| format!("{op}:{first}"))
                .unwrap_or_default(),
            op_type: op.to_owned(),
            attribute: attributes.to_vec(),
            domain: domain.to_owned(),
        });
    }

    /// The model's bytes with the names of its inputs and outputs in their order.
    pub fn finish(self) -> (Vec<u8>, Vec<String>, Vec<String>) {
        let names = |values: &[ValueInfo]| values.iter().map(|value| value.name.clone()).collect();
        let (inputs, outputs) = (names(&self.graph.input), names(&self.graph.output));
        let opset = |(domain, version): (&str, i64)| OperatorSet {
            domain: domain.to_owned(),
            version,
        };
        let model = Model {
            ir_version: IR_VERSION,
            producer_name: "blyan".to_owned(),
            graph: Some(self.graph),
            opset_import: OPSETS.map(opset).into(),
        };
        (model.encode_to_vec(), inputs, outputs)
    }
}

/// A whole-number attribute.
pub fn int(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(value),
        f: None,
        kind: AttributeKind::Int.into(),
    }
}

/// A real attribute.
pub fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: None,
        f: Some(value),
        kind: AttributeKind::Float.into(),
    }
}

fn value_info(name: &str, element: Element, dims: &[Dim<'_>]) -> ValueInfo {
    let dim = dims
        .iter()
        .map(|dim| Dimension {
            extent: Some(extent(*dim)),
        })
        .collect();
    let tensor = TensorType {
        element: element.into(),
        shape: Some(Shape { dim }),
    };
    ValueInfo {
        name: name.to_owned(),
        kind: Some(Type {
            tensor: Some(tensor),
        }),
    }
}

fn extent(dim: Dim<'_>) -> Extent {
    match dim {
        Dim::Is(size) => Extent::Fixed(size as i64),
        Dim::Any(name) => Extent::Named(name.to_owned()),
    }
}
