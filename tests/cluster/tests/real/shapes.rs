//! The YAML that tests share, and readings of what the cluster answers.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt as _;

/// A container of our own small program under the `restricted` level.
pub(crate) fn container(arguments: &str) -> String {
    format!(
        "{{name: main, image: 'emulsion.test/pod:1', imagePullPolicy: IfNotPresent, args: {arguments}, \
         securityContext: {{runAsNonRoot: true, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, \
         capabilities: {{drop: [ALL]}}, seccompProfile: {{type: RuntimeDefault}}}}}}"
    )
}

/// A pod of that container, with further lines of its spec.
pub(crate) fn pod(name: &str, arguments: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, \
         spec: {{terminationGracePeriodSeconds: 1, containers: [{}], {spec}}}}}",
        container(arguments)
    )
}

/// A container that answers HTTP on port 8080, ready by its own probe.
pub(crate) fn serving() -> String {
    let container = container("[serve, ':8080']");
    let open = container.strip_suffix('}').expect("it is a map");
    format!("{open}, ports: [{{containerPort: 8080}}], readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}}}")
}

/// A pod that answers HTTP on port 8080, with further lines of its spec.
pub(crate) fn server(name: &str, spec: &str) -> String {
    pod(name, "[serve, ':8080']", spec).replace(&container("[serve, ':8080']"), &serving())
}

/// A web server on each of several nodes, ready by its own probe, and the Service `name` before it.
pub(crate) fn web(name: &str, replicas: u32, spec: &str) -> String {
    let container = serving();
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: {replicas}, \
         selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}}, \
         spec: {{terminationGracePeriodSeconds: 1, containers: [{container}], {spec}}}}}}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}}}"
    )
}

/// Whether as many replicas are available as are wanted.
pub(crate) fn available(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas;
    let status = deployment.status.as_ref();
    status.and_then(|status| status.available_replicas) == wanted
        && status.and_then(|status| status.observed_generation) == deployment.metadata.generation
}

/// A condition of a pod that is true.
pub(crate) fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|each| each.type_ == condition && each.status == "True")
}

/// The condition `Ready`.
pub(crate) fn ready(pod: &Pod) -> bool {
    is(pod, "Ready")
}

/// The phase that a pod is in.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The node that a pod is on.
pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// A pod's own address.
pub(crate) fn address(pod: &Pod) -> String {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    address.unwrap_or_else(|| panic!("{} has no address", pod.name_any()))
}
