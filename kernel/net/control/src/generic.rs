//! `NETLINK_GENERIC`: services by name. There is the controller, which gives the numbers that belong to the names.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};
use net_netlink::message::{self, Builder, Header};
use net_netlink::{Answer, Protocol, Request};

/// Bytes of `struct genlmsghdr`.
const INFO_LEN: usize = 4;
/// Number of the controller's service (`GENL_ID_CTRL`), its name and version.
const CONTROLLER: u16 = 16;
const NAME: &[u8] = b"nlctrl";
const VERSION: u32 = 2;

/// `CTRL_CMD_*`.
const NEW_FAMILY: u8 = 1;
const GET_FAMILY: u8 = 3;

/// `CTRL_ATTR_*`.
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const FAMILY_VERSION: u16 = 3;
const HEADER_SIZE: u16 = 4;
const MAX_ATTRIBUTE: u16 = 5;
const OPERATIONS: u16 = 6;
const GROUPS: u16 = 7;
/// `CTRL_ATTR_OP_*` and `CTRL_ATTR_MCAST_GRP_*`.
const OPERATION_ID: u16 = 1;
const OPERATION_FLAGS: u16 = 2;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// `GENL_CMD_CAP_*`: one can be asked for, all can, and the request has a policy.
const CAN_DO: u32 = 2;
const CAN_DUMP: u32 = 4;
const HAS_POLICY: u32 = 8;

/// The protocol.
pub(crate) struct Generic;

impl Protocol for Generic {
    fn groups(&self) -> u32 {
        32
    }

    fn anyone_listens(&self) -> bool {
        true
    }

    /// `ENOENT`: no such service. `EINVAL`: too short, or a question without a name. `EOPNOTSUPP`: it cannot do that.
    fn request(&self, request: &Request<'_>) -> Result<Answer> {
        if request.message.header.kind != CONTROLLER {
            return Err(Errno::ENOENT);
        }
        let (&[command, ..], rest) =
            request.message.body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
        match command {
            // Here both flags are needed.
            GET_FAMILY if request.message.header.flags & message::DUMP == message::DUMP => {
                request.check_dump()?;
                let header = request.header(CONTROLLER, message::MULTI);
                Ok(Answer::Dump(Box::new(core::iter::once(describe(header)))))
            }
            GET_FAMILY => {
                let attributes = message::attributes(rest);
                let by_id = attributes.find(FAMILY_ID).and_then(|id| id.as_u16());
                let by_name = attributes.find(FAMILY_NAME).map(|name| name.as_str());
                if by_id.is_none() && by_name.is_none() {
                    return Err(Errno::EINVAL);
                }
                if by_id.is_some_and(|id| id != CONTROLLER) || by_name.is_some_and(|name| name != NAME) {
                    return Err(Errno::ENOENT);
                }
                request.reply(describe(request.header(CONTROLLER, 0)));
                Ok(Answer::Done)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// The message about the controller.
fn describe(header: Header) -> Vec<u8> {
    let mut out = Builder::new(header);
    out.put(&[NEW_FAMILY, VERSION as u8, 0, 0]);
    out.text(FAMILY_NAME, NAME).half(FAMILY_ID, CONTROLLER).word(FAMILY_VERSION, VERSION);
    out.word(HEADER_SIZE, 0).word(MAX_ATTRIBUTE, 0);
    out.nest(OPERATIONS, |all| {
        all.nest(1, |one| {
            one.word(OPERATION_ID, u32::from(GET_FAMILY))
                .word(OPERATION_FLAGS, CAN_DO | CAN_DUMP | HAS_POLICY);
        });
    });
    out.nest(GROUPS, |all| {
        all.nest(1, |one| {
            one.word(GROUP_ID, u32::from(CONTROLLER)).text(GROUP_NAME, b"notify");
        });
    });
    out.finish()
}
