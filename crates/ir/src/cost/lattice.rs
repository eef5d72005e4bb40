//! Exact traffic of lattice correlations: one message from client to server for each step, and perhaps a reply.

use crate::{CommTable, Direction, Phase, Plan, Traffic};

/// Books the messages of a plan's lattice steps. A carrier counts for the first step that needs it.
pub(super) fn book(plan: &Plan, table: &mut CommTable) {
    if let Some(reply) = plan.reply_plan() {
        for (number, step) in reply.steps.iter().enumerate() {
            let [client_to_server, server_to_client] = reply.bytes(number);
            let rounds = if step.is_shared() { 1 } else { 2 };
            let both = Traffic { client_to_server, server_to_client, rounds };
            table.book(step.id(), Phase::Offline, both);
        }
    }
    let Some(lattice) = plan.lattice_plan() else { return };
    let own = lattice.steps.iter().enumerate().filter(|(_, step)| !step.is_shared());
    for (number, step) in own {
        let bytes = lattice.upload_bytes(number);
        let upload = Traffic::one_way(Direction::ClientToServer, bytes, 1);
        table.book(step.id(), Phase::Offline, upload);
    }
}
