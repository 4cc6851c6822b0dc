"""What network policies have to let through, and what not."""

import ipaddress

# Where clouds tell a pod their metadata and credentials.
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200",
            "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254")
# NodeLocal DNSCache; the resolvers of AWS and Google.
RESOLVERS = ("169.254.20.10", "169.254.169.253", "169.254.169.254", "10.0.0.10", "fd00:10::a")
# Services, dependencies, receivers.
ELSEWHERE = ("10.1.2.3", "93.184.216.34", "2606:2800:220:1::1")


def within(address, block):
    return address.version == block.version and address in block


def reaches(policy, address, port, protocol):
    """Whether a policy's rules of egress let a pod call an address that is no pod's."""
    address = ipaddress.ip_address(address)
    for rule in policy["spec"].get("egress", []):
        ports = rule.get("ports")
        if ports and not any(p.get("port", port) == port and p.get("protocol", "TCP") == protocol for p in ports):
            continue
        if "to" not in rule:
            return True
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block and within(address, ipaddress.ip_network(block["cidr"])) and not any(
                    within(address, ipaddress.ip_network(other)) for other in block.get("except", [])):
                return True
    return False


def faults(objects, pods, matches):
    """What policies get wrong about the pods that they select; nothing where there are none."""
    policies = [obj for obj in objects if obj["kind"] == "NetworkPolicy"]
    for policy in policies:
        where, spec = f"NetworkPolicy/{policy['metadata']['name']}", policy["spec"]
        if not spec["podSelector"]:
            yield f"{where}: closes every pod of the namespace"
        elif not any(matches(spec["podSelector"], labels) for labels in pods):
            yield f"{where}: selects no pod"
        for rule in spec.get("egress", []):
            for block in (peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer):
                whole = ipaddress.ip_network(block["cidr"])
                for other in map(ipaddress.ip_network, block.get("except", [])):
                    if other.version != whole.version or not other.subnet_of(whole) or other == whole:
                        yield f"{where}: {other} is no part of {whole}"
    if not policies:
        return
    for labels in pods:
        component = labels.get("app.kubernetes.io/component", "")
        if component.startswith("bundled"):
            continue
        ours = [policy for policy in policies if matches(policy["spec"]["podSelector"], labels)]
        out = [policy for policy in ours if "Egress" in policy["spec"]["policyTypes"]]
        if not out:
            yield f"{component}: may call everywhere"
        if not any("Ingress" in policy["spec"]["policyTypes"] for policy in ours):
            yield f"{component}: takes connections from everywhere"
        if component in {"api", "worker"} and not any(policy["spec"].get("ingress") for policy in ours):
            yield f"{component}: nothing may connect to it"
        can = lambda address, port, protocol="TCP": any(reaches(policy, address, port, protocol) for policy in out)
        yield from (f"{component}: reaches the metadata address {address}" for address in METADATA if out and can(address, 80))
        yield from (f"{component}: cannot ask {address} for names" for address in RESOLVERS
                    if out and not (can(address, 53, "UDP") and can(address, 53)))
        yield from (f"{component}: cannot reach {address}" for address in ELSEWHERE if out and not can(address, 443))
