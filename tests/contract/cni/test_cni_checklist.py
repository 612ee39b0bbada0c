"""Which test shows which rule of the CNI specification, and of the conventions runtimes rely on.

The tests run the installed executable. A rule that names what a routed network has not is said so.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFORMANCE, RULES = "contract/cni/test_cni_conformance.py", "contract/cni/test_cni_rules.py"
RUNTIMES, TOOLS = "contract/cni/test_cni_runtimes.py", "contract/cni/test_cni_tools.py"
PODS, IPV6, PORTS = "netns/cni/test_cni_pods.py", "netns/cni/test_cni_ipv6.py", "netns/cni/test_cni_ports.py"
FAILURES, CRASHES, DISK = (f"netns/cni/test_cni_{name}.py" for name in ("failures", "crashes", "disk"))

CHECKLIST: dict[str, tuple[tuple[str, str], ...]] = {
    "VERSION needs nothing and answers in the version it is asked in": (
        (CONFORMANCE, "test_version_needs_neither_container_nor_daemon"),
        (RULES, "test_version_answers_in_every_version"),
    ),
    "1: an unsupported version, CHECK before 0.4.0, GC and STATUS before 1.1.0": (
        (CONFORMANCE, "test_an_unsupported_version_is_1"),
        (CONFORMANCE, "test_check_below_0_4_0_is_1"),
        (RULES, "test_gc_and_status_are_of_1_1_0"),
    ),
    "4: a missing or wrong variable, each named": (
        (CONFORMANCE, "test_a_missing_variable_is_4_and_named"),
        (CONFORMANCE, "test_a_wrong_variable_is_4_and_named"),
        (RULES, "test_every_missing_variable_is_named"),
    ),
    "container IDs, interface names and networks' names": (
        (RULES, "test_a_container_id_is_letters_digits_and_some_marks"),
        (RULES, "test_an_interface_name_is_one_the_kernel_takes"),
        (RULES, "test_the_longest_names_are_taken"),
        (RULES, "test_a_networks_name_is_as_a_container_id"),
    ),
    "5, 6, 7, 2, 3, 8: what cannot be read, decoded, used, granted, found, entered": (
        (CONFORMANCE, "test_standard_input_that_cannot_be_read_is_5"),
        (CONFORMANCE, "test_what_is_no_json_object_is_6"),
        (CONFORMANCE, "test_an_invalid_configuration_is_7_and_an_unsupported_field_2"),
        (CONFORMANCE, "test_check_after_del_is_3"),
        (CONFORMANCE, "test_the_nodes_own_namespace_is_refused"),
    ),
    "an error is one object on standard output and a status that is not 0": ((CONFORMANCE, "error"),),
    "ADD answers one result in the request's version, and in that version's shape": (
        (CONFORMANCE, "test_add_answers_one_result_in_the_requests_version"),
        (RULES, "test_without_a_version_it_is_0_1_0"),
    ),
    "the kernel holds what the result says (the gateway is link-local: it is in no subnet)": (
        (PODS, "test_the_kernel_holds_what_the_result_says"),
        (IPV6, "test_the_kernel_holds_an_ipv6_pod_as_the_result_says"),
    ),
    "an ADD over what is there is an error and harms nothing": (
        (CONFORMANCE, "test_add_over_an_existing_interface_is_an_error_and_harms_nothing"),
        (CONFORMANCE, "test_add_twice_is_an_error_and_the_first_attachment_stays"),
    ),
    "a failed ADD leaves nothing, and its DEL succeeds": (
        (RULES, "test_an_add_that_fails_at_any_step_leaves_nothing_and_its_del_succeeds"),
        (FAILURES, "test_an_add_that_fails_at_any_step_leaves_nothing"),
    ),
    "one container on two interfaces and networks, one identity in two networks": (
        (CONFORMANCE, "test_one_container_may_have_two_interfaces_and_two_networks"),
        (CONFORMANCE, "test_the_same_identity_in_two_networks_is_two_attachments"),
    ),
    "CNI_ARGS, args.cni and runtimeConfig, the stronger first": (
        (CONFORMANCE, "test_arguments_that_runtimes_send_are_accepted"),
        (RULES, "test_address_and_mac_by_each_way_and_the_stronger_first"),
    ),
    "prevResult: nothing lost, any version in any version, malformed ones refused": (
        (CONFORMANCE, "test_a_chained_add_loses_nothing_of_prev_result"),
        (RULES, "test_a_previous_result_of_any_version_in_the_version_asked_for"),
        (RULES, "test_a_previous_result_that_cannot_be_read"),
    ),
    "DEL: twice, never added, no namespace, no row, another configuration": (
        (CONFORMANCE, "test_del_is_idempotent_and_silent"),
        (CONFORMANCE, "test_del_without_the_namespace_frees_all"),
        (RULES, "test_del_and_check_without_a_row"),
        (CONFORMANCE, "test_del_goes_by_what_add_did_not_by_the_configuration_since"),
        (CONFORMANCE, "test_del_with_a_configuration_that_add_would_refuse"),
    ),
    "CHECK: silent after ADD, names what was lost, tolerates what later plugins added": (
        (CONFORMANCE, "test_check_right_after_add_is_silent"),
        (CONFORMANCE, "test_check_without_prev_result_is_7"),
        (CONFORMANCE, "test_check_names_what_was_lost_in_the_pod"),
        (CONFORMANCE, "test_check_names_what_was_lost_on_the_host"),
        (RULES, "test_check_names_what_of_the_nodes_side_is_not_as_it_was"),
        (CONFORMANCE, "test_check_tolerates_what_a_later_plugin_added"),
        (RULES, "test_check_in_a_chain_compares_what_is_ours"),
    ),
    "STATUS: 0, 50 (no daemon, no address, no disk), 51": (
        (CONFORMANCE, "test_status_is_silent_when_ready"),
        (CONFORMANCE, "test_a_daemon_that_is_down_never_makes_a_success"),
        (CONFORMANCE, "test_an_exhausted_range_is_named_and_nothing_is_half_made"),
        (DISK, "test_a_full_disk"),
        (RULES, "test_status_is_51_where_pods_that_are_there_are_cut_off_too"),
    ),
    "GC: all else of that network, past errors; nothing by a list it cannot read": (
        (CONFORMANCE, "test_gc_frees_all_else_in_that_network_only"),
        (RULES, "test_gc_goes_on_past_an_error_and_reports_it"),
        (RULES, "test_gc_frees_nothing_by_a_list_it_cannot_read"),
    ),
    "no delegation: addresses are the plugin's own, another ipam.type is 2": (
        (CONFORMANCE, "test_an_invalid_configuration_is_7_and_an_unsupported_field_2"),
    ),
    "portMappings: tcp, udp, hostIP, both families, hairpin, localhost, conflict, conntrack; sctp is 7": (
        (PORTS, "test_a_mapped_port_leads_to_the_pod_from_everywhere_until_del"),
        (PORTS, "test_a_port_of_one_address_is_no_port_of_another"),
        (PORTS, "test_a_taken_port_is_an_error_and_costs_nothing"),
        (PORTS, "test_udp_by_a_port_of_the_node_from_everywhere"),
        (PORTS, "test_a_udp_client_that_keeps_its_socket_is_led_to_the_next_pod"),
        (PORTS, "test_udp_flows_from_before_the_mapping_are_led_to_the_pod"),
        (IPV6, "test_ports_of_the_node_by_either_family"),
    ),
    "bandwidth: a token bucket each way (no ifb)": (
        (CONFORMANCE, "test_bandwidth_is_a_token_bucket_each_way"),
    ),
    "ips, mac, ipRanges, dns granted or refused; other keys and empty ones let through": (
        (CONFORMANCE, "test_wishes_are_granted_and_seen_in_the_kernel"),
        (CONFORMANCE, "test_ranges_of_the_runtime_give_a_second_family"),
        (RULES, "test_addresses_of_both_families_and_only_of_ours"),
        (RULES, "test_a_mac_that_no_interface_can_have_is_7"),
        (RULES, "test_keys_that_are_not_ours_and_empty_capabilities_are_let_through"),
    ),
    "many at once": (
        (PODS, "test_fifty_at_once_share_nothing_and_leave_nothing"),
        (TOOLS, "test_a_del_waits_for_the_add_it_undoes"),
    ),
    "killed anywhere; a store that refuses": (
        (CRASHES, "test_three_hundred_kills_under_load_leak_nothing"),
        (DISK, "test_a_disk_that_turns_read_only"),
        (DISK, "test_a_damaged_store_is_left_as_it_is_and_pods_go_on"),
    ),
    "no daemon: ADD is 11, DEL is promised or fails": (
        (CONFORMANCE, "test_a_del_is_promised_where_the_promise_is_durable"),
        (CONFORMANCE, "test_promised_dels_are_kept_at_the_start_and_before_the_next_add"),
    ),
    "any caller, a large configuration, nobody who reads": (
        (RULES, "test_it_works_for_a_caller_in_any_namespace_and_directory"),
        (CONFORMANCE, "test_a_large_configuration_passes_whole"),
        (CONFORMANCE, "test_a_closed_standard_output_is_a_failure_and_del_mends_it"),
    ),
    "by the runtimes' own libraries": (
        (RUNTIMES, "test_ctr_run"),
        (RUNTIMES, "test_cri_as_kubelet_speaks_it"),
        (RUNTIMES, "test_podman_with_its_cni_backend"),
    ),
}


@pytest.mark.parametrize("rule", CHECKLIST)
def test_the_tests_of_a_rule_are_there(rule):
    for path, name in CHECKLIST[rule]:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (path, name)
