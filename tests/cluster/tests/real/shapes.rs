//! The YAML that tests share, and readings of what the cluster answers.

use k8s_openapi::api::core::v1::Pod;

/// A container of our own small program under the `restricted` level.
pub(crate) fn container(arguments: &str) -> String {
    format!(
        "{{name: main, image: 'emulsion.test/pod:1', imagePullPolicy: IfNotPresent, args: {arguments}, \
         securityContext: {{runAsNonRoot: true, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, \
         capabilities: {{drop: [ALL]}}, seccompProfile: {{type: RuntimeDefault}}}}}}"
    )
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
