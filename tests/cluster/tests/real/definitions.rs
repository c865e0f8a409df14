use cluster::{Needs, in_namespace};

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ranges.cluster.emulsion.test}
spec:
  group: cluster.emulsion.test
  scope: Namespaced
  names: {plural: ranges, singular: range, kind: Range}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties: {least: {type: integer}, most: {type: integer}}
              x-kubernetes-validations: [{rule: 'self.least <= self.most', message: least must not exceed most}]
";

fn range(least: u32, most: u32) -> String {
    format!("{{apiVersion: cluster.emulsion.test/v1, kind: Range, metadata: {{name: it}}, spec: {{least: {least}, most: {most}}}}}")
}

#[test]
fn a_rule_of_a_definition_refuses_what_breaks_it() {
    in_namespace("definitions", Needs::Api, async |space| {
        space.apply(DEFINITION).await?;
        space.apply(&range(1, 2)).await?;
        let refused = space.apply(&range(3, 2)).await.expect_err("the rule is broken");
        assert!(format!("{refused:#}").contains("least must not exceed most"), "{refused:#}");
        Ok(())
    });
}
