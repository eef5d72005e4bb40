//! Exact traffic of lattice correlations: one message from client to server for each step.

use crate::{CommTable, Direction, Phase, Plan, Traffic};

/// Books the uploads of a plan's lattice steps. A carrier counts for the first step that needs it.
pub(super) fn book(plan: &Plan, table: &mut CommTable) {
    let Some(lattice) = plan.lattice_plan() else { return };
    for (number, step) in lattice.steps.iter().enumerate() {
        let bytes = lattice.upload_bytes(number);
        let upload = Traffic::one_way(Direction::ClientToServer, bytes, 1);
        table.book(step.id(), Phase::Offline, upload);
    }
}
