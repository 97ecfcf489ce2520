//! Arenas to saved states and back: files hold one tensor for each parameter and state, whatever the layout in memory.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use wgrad_tensor::Tensor;

use crate::{
    OptimError, OptimizerState,
    arena::{Arena, Member, Part, States},
};

/// What the arenas remember, in the order of the parameters. The tensors are slices: nothing is computed.
pub(crate) fn write(rule: &str, states: States<'_>, arenas: &[Arena]) -> OptimizerState {
    let updated = arenas.iter().filter(|arena| arena.steps > 0);
    let mut parts: Vec<(&Arena, &Part)> =
        updated.flat_map(|arena| arena.parts.iter().map(move |part| (arena, part))).collect();
    parts.sort_by_key(|(_, part)| part.index);
    let (mut tensors, mut steps) = (Vec::new(), BTreeMap::new());
    for (arena, part) in parts {
        steps.insert(part.name.as_str(), arena.steps);
        let names = states(arena.group, arena.shape());
        for ((state, _), kept) in names.iter().zip(arena.state.iter().flatten()) {
            let name = format!("{}.{state}", part.name);
            let tensor = arena.kept(part, kept).named(&name);
            tensors.push((name, tensor));
        }
    }
    OptimizerState { tensors, scalars: json!({ "rule": rule, "steps": steps }) }
}

/// The parameters with the states and numbers that were saved for them. `members` are all that the optimizer has; frozen ones
/// of which nothing was saved are left out.
///
/// # Errors
/// The state is of another rule or of other parameters.
pub(crate) fn read(
    saved: &OptimizerState,
    rule: &str,
    states: States<'_>,
    members: Vec<Member>,
) -> Result<Vec<Member>, OptimError> {
    let mut problems = Vec::new();
    let written_by = saved.scalars.get("rule").and_then(|v| v.as_str()).unwrap_or("nothing known");
    if written_by != rule {
        problems.push(format!("it was written by {written_by}, not by {rule}"));
    }
    let none = serde_json::Map::new();
    let steps = saved.scalars.get("steps").and_then(|v| v.as_object()).unwrap_or_else(|| {
        problems.push("`steps` is missing".to_owned());
        &none
    });
    let given: HashMap<&str, &Tensor> = saved.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut members: HashMap<String, Member> = members.into_iter().map(|m| (m.name.clone(), m)).collect();
    let mut used = 0;
    for (name, steps) in steps {
        let (Some(member), Some(steps)) = (members.get_mut(name), steps.as_u64()) else {
            problems.push(format!("`{name}` is not a parameter of this optimizer, or its step is no number"));
            continue;
        };
        let value = &member.value;
        let mut tensors = Vec::new();
        for (state, shape) in states(member.group, value.shape()) {
            let key = format!("{name}.{state}");
            match given.get(key.as_str()) {
                Some(t) if *t.shape() == shape && t.dtype() == value.dtype() => {
                    used += 1;
                    tensors.push(t.to_device(value.device()).named(&key));
                }
                Some(t) => problems.push(format!(
                    "`{key}` is {}{} instead of {}{shape}",
                    t.dtype(),
                    t.shape(),
                    value.dtype(),
                )),
                None => problems.push(format!("`{key}` is missing")),
            }
        }
        (member.steps, member.state) = (steps, Some(tensors));
    }
    if problems.is_empty() && used < given.len() {
        problems.push(format!("{} tensors belong to no parameter of this optimizer", given.len() - used));
    }
    if !problems.is_empty() {
        return Err(OptimError::State { problems });
    }
    Ok(members.into_values().filter(|m| m.state.is_some() || !m.param.is_frozen()).collect())
}
